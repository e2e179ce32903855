// Draws what is known, for every change and once a second.

import { renderChat, talk } from "./chat.js";
import { renderLately } from "./lately.js";
import { BUTTONS, fullName, health, here, holding, labelOf, mayAnyway, me, obstacle, phaseOf, pointless, proxmoxTrouble,
	vmHealth, watchLock } from "./state.js";
import { $, age, clock, list, minute, PHASES, put, show, stateOf, text, trouble as inWords } from "./words.js";

const STALE_MS = 60_000;
const HINTS = Object.fromEntries(Object.entries(BUTTONS).map(([verb, b]) => [verb, b.querySelector("small").textContent]));

export function render() {
	const view = here();
	watchLock(view);
	text({ "key-word": me.key ? "unlocked" : "locked" });
	renderLights(view, talk());
	renderState(view);
	renderTold(view, phaseOf(view));
	renderButtons(view);
	renderLately(view);
	renderChat();
	renderByHand(view.byHand);
}

function light(name, tone, word, since) {
	const item = $(`light-${name}`);
	item.dataset.tone = tone;
	put(item.querySelector("i"), { good: "●", bad: "✕", warn: "?" }[tone] ?? "○");
	put(item.querySelector("b"), tone === "bad" && since ? `${word} since ${minute(since)}` : word);
}

function renderLights(view, chat) {
	const { heard, fails, downSince } = health;
	light("handler", ...fails ? ["bad", "not answering"] : heard ? ["good", "answering"] : ["warn", "not checked"], downSince);
	const vm = heard && !fails && vmHealth();
	const what = proxmoxTrouble(view);
	const known = vm && vm.proxmox !== "not-checked";
	light("proxmox", ...what ? ["bad", `${what},`] : known ? ["good", "answering"] : ["warn", "not checked"], vm?.since);
	const told = heard?.chat;
	const down = chat.trouble || (["on", "off", undefined].includes(told) ? "" : told);
	const open = heard?.chat_isolated === false ? ", not isolated" : "";
	const ready = told === "off" ? ["", "not set up"] : chat.answered ? ["good", `answering${open}`] : ["warn", `not checked${open}`];
	light("claude", ...down ? ["bad", `not answering: ${inWords(down)}`] : ready, chat.trouble && chat.since);
	const config = heard?.config ?? "ok";
	show({ config: config !== "ok" });
	text({
		config: `The handler’s configuration is ${config.replace(/20\S+Z/, clock)}. Its log says what to mend.`,
		name: me.vm ? fullName() : "Breakglass",
	});
}

function renderState({ seen, note, trouble, warnings, verdict }) {
	const [shape, tone, word] = seen ? stateOf(seen.state) : ["?", "", "Not checked yet"];
	text({ "state-shape": shape, "state-word": word });
	const old = seen && Date.now() - seen.at > STALE_MS;
	$("state").dataset.tone = old ? "" : tone;
	text({ "state-age": seen && `checked ${clock(seen.at)}, ${age(seen.at)} ago${old ? "; may be out of date" : ""}` });
	const off = Math.abs(me.clockOff);
	const skew = off && `This device’s clock is ${age(Date.now() - off)} ${me.clockOff > 0 ? "behind" : "ahead"}; that does no harm.`;
	const notes = [trouble, note, seen?.holder && holding(seen.holder), skew, ...warnings];
	text({ "state-note": notes.filter(Boolean).join(" ") });
	document.title = seen ? `${word} - ${me.vm}` : "Breakglass";
	show({ verdict });
	if (!verdict) return;
	text({
		"verdict-sentence": `${verdict.sentence.charAt(0).toUpperCase()}${verdict.sentence.slice(1)}.`,
		"verdict-advice": verdict.advice && `Advised: ${labelOf(verdict.advice)}.`,
		"verdict-from": `Evidence, from ${verdict.from} at ${clock(verdict.at)}`,
	});
	list($("verdict-lines"), verdict.evidence);
}

function renderTold(view, phase) {
	const [shape, tone, word, cover] = PHASES[phase];
	const covered = phase !== view.phase;
	const fill = (words) => words.replaceAll("{label}", view.label).replaceAll("{what}", view.label.toLowerCase());
	const busy = phase === "running" || phase === "checking";
	Object.assign($("told").dataset, { tone, phase });
	text({ "told-shape": shape, "told-word": fill(word) });
	const down = phase === "disconnected";
	text({ "told-sentence": down ? `since ${minute(health.downSince)}.` : fill(covered ? cover : view.sentence) });
	const next = Math.max(0, Math.ceil((health.next - Date.now()) / 1000));
	text({
		"told-timer": down ? `Trying again in ${next} s.` : busy ? age(view.since) : "",
		"told-hint": covered ? "" : view.hint,
	});
	list($("told-lines"), covered ? [] : view.lines);
	show({
		"stop-waiting": busy || (phase === "unknown" && view.acting),
		"ask-again": phase === "unknown" && !view.acting,
		"try-now": down,
		watch: phase === "busy" ? view.holder : phase === "idle" && view.seen?.holder,
	});
}

function renderButtons(view) {
	const advised = me.key && view.verdict?.advice;
	for (const [verb, button] of Object.entries(BUTTONS)) {
		const blocked = obstacle(view, verb);
		const why = blocked || pointless(view, verb);
		const anyway = why && me.key && (!blocked || mayAnyway(view)) ? " Try anyway…" : "";
		button.ariaDisabled = String(Boolean(why));
		button.classList.toggle("advised", verb === advised);
		put(button.querySelector("small"), `${verb === advised ? "Advised. " : ""}${why || HINTS[verb]}${anyway}`);
	}
}

function renderByHand(lines) {
	show({ "by-hand-none": !lines.length });
	list($("by-hand-lines"), lines);
	const host = /@(\[[0-9a-f:]+\]|[\w.-]+)/i.exec(lines.join(" "))?.[1];
	$("proxmox").href = `https://${host}:8006/`;
	show({ proxmox: host });
	text({ proxmox: `Proxmox: ${$("proxmox").href}` });
}
