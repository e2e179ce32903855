// Draws the frame, the connections and the commands by hand. Other modules draw the VM, the conversation and the key.

import { $, leave, makeCommand, setShown, setText, setTexts } from "../base/dom.js";
import { MINUTE, span } from "../base/words.js";
import { chatDown, fullName, isAway, otherName, phaseOf, proxmoxTrouble, vmHealth } from "../state/rules.js";
import { renderBar } from "./render_bar.js";
import { renderVm } from "./render_vm.js";

/** @typedef {import("../state/shape.js").State} State */
/** @typedef {import("../state/shape.js").View} View */

/** @param {State} state  @param {View} view */
function renderFrame(state, view) {
	const scene = sceneOf(state);
	const isCut = scene === "away" || phaseOf(state, view) === "disconnected";
	placeByHand(isCut);
	document.body.classList.toggle("cut", isCut);
	if (scene === "unlocked") leave($("unlock"));
	document.body.dataset.scene = scene;
	document.body.dataset.tab = state.tab;
	for (const tab of document.querySelectorAll("[data-show]")) {
		const on = /** @type {HTMLElement} */ (tab).dataset.show === state.tab;
		if (on) tab.setAttribute("aria-current", "page");
		else tab.removeAttribute("aria-current");
	}
	const isVm = state.tab !== "list" && state.vm && !state.unknownVm;
	setTexts({ name: isVm ? fullName(state) : "Breakglass", named: isVm && otherName(view) });
	setShown({ "show-vms": state.unlocked && (state.health.vms.length > 1 || state.unknownVm) });
}

/** Moves the commands by hand to the best place if there is no connection, because nothing else works then. @param {boolean} isCut */
function placeByHand(isCut) {
	const place = $(isCut ? "without" : "beside");
	if (place.firstElementChild) return;
	const focused = document.activeElement;
	place.append($("by-hand"));
	if (focused instanceof HTMLElement && place.contains(focused)) focused.focus({ preventScroll: true });
}

/** Returns which parts are shown. The key field stays hidden until the page has looked for this device's key. @param {State} state */
function sceneOf(state) {
	if (state.unlocked) return "unlocked";
	return isAway(state) ? "away" : state.key === "sought" ? "opening" : "locked";
}

/** Draws a connection as a dot and its name if it works, and with the word `wrong` if not. `other` is the word if neither is known.
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
	const isCut = isAway(state); // nothing is known about the parts behind the handler
	const unasked = isCut && health.answer ? "not known" : undefined;
	renderLink("proxmox", code ? "away" : "", !isCut && (Boolean(health.answer && !health.fails && vm && vm.proxmox !== "not-checked") || (view.seen?.at ?? 0) > health.at), unasked);
	const down = state.chats[state.vm]?.failure.trouble || chatDown(state);
	const none = health.answer?.chat === "none";
	renderLink("claude", down ? "down" : "", !isCut && Boolean(health.answer) && !none, none ? "not set up" : unasked);
}

/** @param {State} state  @param {View} view  @param {number} now */
function renderProven({ health, clockOff }, { proven }, now) {
	const { at, how, seen = 0 } = proven ?? {};
	const old = seen && (health.fails || Math.abs(now - seen) > MINUTE) ? `, as of ${span(now - seen)} ago` : "";
	const words = at ? `Last proven ${span(now - Date.parse(at) + clockOff)} ago (${how})` : "Never proven";
	setText($("proven"), seen ? `${words}${old}.` : "");
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
	const name = /^[a-z][a-z0-9-]*$/.exec(vm)?.[0] ?? "devvm"; // the text is pasted into a shell
	setTexts({ proxmox: `Proxmox: ${proxmox.href}`, recipe: recipe.dataset.as.replace("devvm", name) });
	setShown({ proxmox: host, "by-hand-none": !lines.length });
}

/** @type {import("../state/draw.js").Draw[]} */
export const REGIONS = [
	renderFrame,
	(state, _, now, named) => renderVm(state, named, now),
	(state, { nudge }, now, named) => renderBar(state, { ...named, nudge }, now),
	renderLinks,
	renderProven,
	({ vm }, _, __, named) => renderByHand(named.byHand, vm),
];
