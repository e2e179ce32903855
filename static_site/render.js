// Draws what is known: after every event, and once a second.

import { $, icon, leave, make, setShown, setText, setTexts } from "./dom.js";
import { newView } from "./reduce.js";
import { describeKey } from "./key.js";
import { MINUTE, chatDown, fullName, isAway, proxmoxTrouble, vmHealth } from "./rules.js";
import { renderBar } from "./render_bar.js";
import { renderHistory } from "./render_history.js";
import { renderList } from "./render_list.js";
import { isPressed, renderVm } from "./render_vm.js";
import { getState, subscribe, viewOf } from "./store.js";
import { renderChat } from "./talk.js";
import { span } from "./words.js";

/** @typedef {import("./reduce.js").State} State */
/** @typedef {import("./reduce.js").View} View */

let due = false;

/** Draws in a moment: once for all that happens at once. */
function renderSoon() {
	if (due) return;
	due = true;
	queueMicrotask(() => {
		due = false;
		render();
	});
}

/** Draws everything, unless a finger is down: nothing is re-worded under it. */
export function render() {
	if (isPressed()) {
		setTimeout(renderSoon, 100);
		return;
	}
	const state = getState();
	const view = viewOf(state.vm);
	const now = Date.now();
	const scene = sceneOf(state);
	if (scene === "unlocked") leave($("unlock"));
	document.body.dataset.scene = scene;
	document.body.dataset.tab = state.tab;
	for (const tab of document.querySelectorAll("[data-show]")) {
		const on = /** @type {HTMLElement} */ (tab).dataset.show === state.tab;
		if (on) tab.setAttribute("aria-current", "page");
		else tab.removeAttribute("aria-current");
	}
	setText($("name"), state.tab === "list" || !state.vm || state.unknownVm ? "Breakglass" : fullName(state));
	setShown({ "show-vms": state.unlocked && (state.health.vms.length > 1 || state.unknownVm) });
	const named = state.unknownVm ? newView("") : view; // nothing of another VM is shown in its place
	const regions = [
		() => renderVm(state, named, now),
		() => renderBar(state, view, now),
		() => renderLinks(state, view),
		() => renderProven(state, view, now),
		() => renderHistory(named),
		renderChat,
		() => renderByHand(named.byHand, state.vm),
		() => state.tab === "list" && renderList(state, now),
	];
	for (const draw of regions) attempt(draw);
}

/** A region that can't be drawn takes no other with it. @param {() => unknown} draw */
function attempt(draw) {
	try {
		draw();
	} catch (error) {
		reportError(error);
	}
}

/** What there is to see: nothing of the lock before the page has looked for the key of this device. @param {State} state */
function sceneOf(state) {
	if (state.unlocked) return "unlocked";
	return isAway(state) ? "away" : state.key === "sought" ? "opening" : "locked";
}

/** One of the connections: a dot and a name if it is well, a word if not. `other` is said of one that is neither.
 * @param {string} name  @param {string} wrong  @param {boolean} isWell  @param {string} [other] */
function renderLink(name, wrong, isWell, other = "not asked yet") {
	const item = $(`link-${name}`);
	const [tone, mark] = wrong ? ["bad", "cross"] : isWell ? ["good", "dot"] : ["", "ring"];
	item.dataset.tone = tone;
	item.querySelector("use")?.setAttribute("href", `#i-${mark}`);
	const word = /** @type {HTMLElement} */ (item.querySelector("span"));
	word.className = wrong ? "" : "said";
	setText(word, `: ${wrong || (isWell ? "answering" : other)}`);
}

/** @param {State} state  @param {View} view */
function renderLinks(state, view) {
	const { health } = state;
	const vm = vmHealth(state);
	renderLink("breakglass", health.fails || (health.slow && !health.answer) ? "away" : "", Boolean(health.answer));
	const code = proxmoxTrouble(state, view);
	renderLink("proxmox", code ? "away" : "", Boolean(health.answer && !health.fails && vm && vm.proxmox !== "not-checked") || (view.seen?.at ?? 0) > health.at);
	const down = view.claude.trouble || chatDown(state);
	const none = health.answer?.chat === "none";
	renderLink("claude", down ? "down" : "", Boolean(health.answer) && !none, none ? "not set up" : undefined);
}

/** @param {State} state  @param {View} view  @param {number} now */
function renderProven({ health, clockOff }, { proven }, now) {
	const { at, how, seen = 0 } = proven ?? {};
	const old = seen && (health.fails || Math.abs(now - seen) > MINUTE) ? `, as of ${span(now - seen)} ago` : "";
	const words = at ? `Last proven ${span(now - Date.parse(at) + clockOff)} ago (${how})` : "Never proven";
	setText($("proven"), seen ? `${words}${old}.` : "");
	describeKey();
}

let drawnCommands = "";

/** @param {string[]} lines  @param {string} vm */
function renderByHand(lines, vm) {
	const key = JSON.stringify([lines, vm]);
	if (key === drawnCommands) return;
	drawnCommands = key;
	$("by-hand-lines").replaceChildren(...lines.map(makeCommand));
	const host = /@(\[[0-9a-f:]+\]|[\w.-]+)/i.exec(lines.join(" "))?.[1];
	const proxmox = /** @type {HTMLAnchorElement} */ ($("proxmox"));
	proxmox.href = `https://${host}:8006/`;
	const recipe = $("recipe");
	recipe.dataset.as ??= recipe.textContent ?? "";
	const name = /^[a-z][a-z0-9-]*$/.exec(vm)?.[0] ?? "devvm"; // it is pasted into a shell
	setTexts({ proxmox: `Proxmox: ${proxmox.href}`, recipe: recipe.dataset.as.replace("devvm", name) });
	setShown({ proxmox: host, "by-hand-none": !lines.length });
}

/** @param {string} line */
function makeCommand(line) {
	const button = make("button.bare", icon("copy"), make("span", "Copy"));
	Object.assign(button, { type: "button" });
	button.dataset.copy = line;
	return make("div.command", make("code", line), button);
}

subscribe(renderSoon);
