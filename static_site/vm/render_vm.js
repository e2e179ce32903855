// Draws the VM: headline, buttons, picture, evidence, what is to be known beside.

import { $, fillText, icon, make, makePicture, setIcon, setList, setShown, setText, setTexts } from "../base/dom.js";
import { clock, sentence, span } from "../base/words.js";
import { adviceOf, mayAnyway, notesOf, obstacle, pointless } from "../state/rules.js";
import { POWER, VERBS } from "../state/verbs.js";
import { headlineOf } from "./headline.js";

/** @typedef {import("../state/reduce.js").State} State */
/** @typedef {import("../state/reduce.js").View} View */

/** @type {Record<string, HTMLElement>} */
const BUTTONS = {};

/** Makes the buttons, once, from the one table of verbs. */
export function makeButtons() {
	for (const verb of [...POWER, "status", "forensics"]) {
		const { label, costs } = VERBS[verb];
		const asks = POWER.includes(verb);
		const button = make(costs && costs !== "Nothing" ? "button.costs" : "button", icon(asks ? verb : verb === "status" ? "look" : "evidence"), make("span", make("span", asks ? `${label}…` : label), " ", make("small")));
		button.dataset.verb = verb;
		const small = /** @type {HTMLElement} */ (button.querySelector("small"));
		small.id = `${verb}-more`;
		small.ariaHidden = "true"; // the name of a button never changes; this describes it
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
	setTexts({ headline: head.words, second: head.second, why: head.why });
	document.title = state.vm && state.unlocked ? `${head.words} - ${state.unknownVm || state.vm}` : "Breakglass";
	const spoken = `${head.words}. ${sentence(head.why)}`;
	if (state.unlocked && spoken !== announced && !head.live && view.seen && head.why) { // a state alone is told by the bar
		const advice = adviceOf(view);
		setText($("say-verdict"), spoken + (advice ? ` Advised: ${VERBS[advice].label}.` : ""));
		announced = spoken;
	}
	renderButtons(state, view, now);
	renderPicture(view, now);
	renderEvidence(view);
	setList($("notes"), state.unlocked ? notesOf(state, view) : []);
}

/** @param {State} state  @param {View} view  @param {number} now */
function renderButtons(state, view, now) {
	const advised = adviceOf(view);
	for (const [verb, button] of Object.entries(BUTTONS)) {
		const blocked = Boolean(obstacle(state, view, verb)) && !mayAnyway(view, now);
		const odd = POWER.includes(verb) ? pointless(view, verb) : "";
		const small = /** @type {HTMLElement} */ (button.querySelector("small"));
		button.ariaDisabled = String(blocked);
		button.classList.toggle("advised", verb === advised && !blocked);
		button.classList.toggle("odd", Boolean(odd));
		setText(small, odd || (verb === advised ? "Advised" : ""));
	}
}

/** @type {View["picture"]} */
let shownPicture = null;

/** @param {import("../state/reduce.js").Picture} picture */
const makePictureOf = ({ png, started, rows }) => makePicture(png, clock(Date.parse(started)), rows);

/** @param {View} view  @param {number} now */
function renderPicture({ picture, waiting, seen, watch }, now) {
	const glass = $("glass");
	if (picture !== shownPicture) {
		if (picture) {
			const image = makePictureOf(picture);
			image.addEventListener("load", () => picture === shownPicture && glass.replaceChildren(image), { once: true }); // another VM's may be late
		} else glass.replaceChildren();
		shownPicture = picture;
	}
	const old = Boolean(picture && !picture.live && seen && picture.last !== seen.last);
	glass.classList.toggle("old", old);
	setShown({ console: true });
	const at = picture ? Date.parse(picture.started) : 0;
	const live = watch?.on ? "new every 3 s" : `${span(now - at)} ago`;
	setTexts({
		"picture-at": picture ? `Console ${clock(at)}` : waiting ? "Console: on its way…" : "No picture yet",
		"picture-age": !picture ? "" : old ? "from before" : live,
	});
	/** @type {HTMLButtonElement} */ (glass).disabled = !picture;
}

/** @param {View} view */
function renderEvidence({ verdict, words, output }) {
	const lines = verdict?.evidence ?? [];
	setTexts({
		"evidence-word": verdict ? `${lines.length} ${lines.length === 1 ? "line" : "lines"}, ${clock(verdict.at)}` : "none yet",
		"verdict-sentence": sentence(verdict?.sentence),
		"output-word": output.text ? output.title : "none yet",
	});
	setList($("verdict-lines"), lines);
	fillText($("output"), output.text);
	setShown({ "last-words": words });
	setText($("words-at"), words && clock(words.at));
	fillText($("words"), words?.lines.join("\n") ?? "");
}

/** Opens the picture at its own size. */
export function enlargePicture() {
	if (!shownPicture) return;
	$("large-picture").replaceChildren(makePictureOf(shownPicture));
	/** @type {HTMLDialogElement} */ ($("large")).showModal();
}

