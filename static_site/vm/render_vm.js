// Draws the VM: headline, buttons, picture, evidence and notes.

import { $, fillText, icon, make, makeCure, setIcon, setItems, setList, setShown, setText, setTexts } from "../base/dom.js";
import { clock, sentence } from "../base/words.js";
import { adviceOf, failureOf, mayAnyway, notesOf, obstacle, pointless } from "../state/rules.js";
import { POWER, VERBS } from "../state/verbs.js";
import { headlineOf } from "./headline.js";
import { renderConsole, textOf } from "./render_console.js";

/** @typedef {import("../state/shape.js").State} State */
/** @typedef {import("../state/shape.js").View} View */

/** @type {Record<string, HTMLElement>} */
const BUTTONS = {};

/** Makes the buttons from the table of verbs, once. */
export function makeButtons() {
	for (const verb of [...POWER, "status", "forensics"]) {
		const { label, costs } = VERBS[verb];
		const asks = POWER.includes(verb);
		const button = make(costs && costs !== "Nothing" ? "button.costs" : "button", icon(asks ? verb : verb === "status" ? "look" : "evidence"), make("span", make("span", asks ? `${label}…` : label), " ", make("small")));
		button.dataset.verb = verb;
		const small = /** @type {HTMLElement} */ (button.querySelector("small"));
		small.id = `${verb}-more`;
		small.ariaHidden = "true"; // the name of a button never changes, so this text describes the button
		button.ariaLabel = asks ? `${label}…` : label;
		button.setAttribute("aria-describedby", small.id);
		BUTTONS[verb] = button;
		$(asks ? "verbs" : "looks").append(button);
	}
}

let announced = "";

/** @param {State} state  @param {View} view  @param {number} now */
export function renderVm(state, view, now) {
	const head = headlineOf(state, view, now);
	const box = $("verdict");
	box.dataset.tone = head.tone;
	setIcon(box, head.icon, head.live);
	box.dataset.long = String(Math.max(0, Math.ceil((head.words.length - 13) / 3)));
	box.dataset.second = String(Math.floor(head.second.length / 31));
	setTexts({ headline: head.words, second: head.second });
	renderWhy(head.why, view.vm);
	const cures = state.unlocked ? head.cures ?? [] : [];
	setItems($("cures"), cures, makeCure);
	setShown({ cures: cures.length });
	document.title = state.vm && state.unlocked ? `${head.words} - ${state.unknownVm || state.vm}` : "Breakglass";
	const spoken = `${head.words}. ${sentence(head.why)}`;
	if (state.unlocked && spoken !== announced && !head.live && view.seen && head.why) { // if only the state has changed, the bar announces the change
		const advice = adviceOf(view);
		setText($("say-verdict"), spoken + (advice ? ` Advised: ${VERBS[advice].label}.` : ""));
		announced = spoken;
	}
	renderButtons(state, view, now);
	renderConsole(view, now);
	renderEvidence(view);
	setList($("notes"), state.unlocked ? notesOf(state, view, now) : []);
}

let room = "";

/** Draws the reason. Its box grows with a longer reason but does not shrink with a shorter one, so no button moves up under a thumb. @param {string} words  @param {string} vm */
function renderWhy(words, vm) {
	const why = $("why");
	const place = `${innerWidth}x${innerHeight} ${vm}`;
	if (place === room && why.textContent === words) return;
	if (place !== room) why.style.minHeight = "";
	room = place;
	setText(why, words);
	const { height } = why.getBoundingClientRect();
	if (height > parseFloat(why.style.minHeight || "0")) why.style.minHeight = `${height}px`;
}

/** Returns the power verb whose button has the whole width: the advised verb, else one that makes sense, else the verb that has the place now. Buttons change places for no other reason.
 * @param {View} view  @param {string} advised  @param {string} current */
function leadOf({ open, seen }, advised, current) {
	if (open || !seen || seen.holder) return current;
	if (POWER.includes(advised)) return advised;
	return seen.state === "stopped" ? "start" : current === "start" && seen.state === "running" ? "cycle" : current;
}

/** Swaps two buttons without moving any other button. @param {HTMLElement} one  @param {HTMLElement} other */
function swap(one, other) {
	const focused = document.activeElement;
	const place = document.createComment("");
	other.replaceWith(place);
	one.replaceWith(other);
	place.replaceWith(one);
	if (focused === one || focused === other) /** @type {HTMLElement} */ (focused).focus({ preventScroll: true });
}

/** @param {State} state  @param {View} view  @param {number} now */
function renderButtons(state, view, now) {
	const advised = adviceOf(view);
	const first = /** @type {HTMLElement} */ ($("now").nextElementSibling);
	const lead = BUTTONS[leadOf(view, advised, first.dataset.verb ?? "")];
	if (lead !== first) swap(first, lead);
	for (const [verb, button] of Object.entries(BUTTONS)) {
		const blocked = isBlocked(state, view, verb, now);
		const isOff = verb === "cycle" && view.seen?.state === "stopped"; // because Start does the same in this state
		const odd = !POWER.includes(verb) ? "" : isOff ? "It is off" : pointless(view, verb);
		const small = /** @type {HTMLElement} */ (button.querySelector("small"));
		button.ariaDisabled = String(blocked);
		button.classList.toggle("advised", verb === advised && !blocked);
		button.classList.toggle("odd", Boolean(odd));
		const word = odd || (verb === advised ? "Advised" : "");
		const { costs } = VERBS[verb];
		setText(small, button === lead && costs && !odd ? `${word && `${word}. `}${costs.replace(" in the VM", "")} is lost.` : word);
	}
	for (const button of document.querySelectorAll("[data-approve]")) {
		const { approve = "", vm = "" } = /** @type {HTMLElement} */ (button).dataset;
		const of = Object.hasOwn(state.views, vm) ? state.views[vm] : null;
		button.ariaDisabled = String(Boolean(of && isBlocked({ ...state, vm }, of, approve, now)));
	}
}

/** @param {State} state  @param {View} view  @param {string} verb  @param {number} now */
const isBlocked = (state, view, verb, now) => Boolean(obstacle(state, view, verb)) && !mayAnyway(view, now);

/** @param {View} view */
function renderEvidence(view) {
	const { verdict, words, output } = view;
	const lines = [...failureOf(view)?.lines ?? [], ...verdict?.evidence ?? []];
	setTexts({
		"evidence-word": lines.length && !verdict ? `${lines.length} lines` : verdict ? `${lines.length} ${lines.length === 1 ? "line" : "lines"}, ${clock(verdict.at)}` : "none yet",
		"verdict-sentence": sentence(verdict?.sentence),
		"output-word": output.text ? output.title : "none yet",
	});
	setList($("verdict-lines"), lines);
	fillText($("output"), output.text);
	setShown({ "last-words": words && textOf(view) !== words.lines });
	setText($("words-at"), words && clock(words.at));
	fillText($("words"), words?.lines.join("\n") ?? "");
}
