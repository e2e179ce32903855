// Draws the bar, which shows the outcome of the last press wherever that button is on the page.

import { $, icon, make, makeCure, setIcon, setItems, setList, setShown, setText, setTexts } from "../base/dom.js";
import { ended, sentence } from "../base/words.js";
import { barOf, lookOfAll } from "./bar.js";

/** @typedef {import("../state/shape.js").State} State */
/** @typedef {import("../state/shape.js").View} View */
/** @typedef {import("./bar.js").Step} Step */

let hidden = ""; // the outcome whose details a person has closed
let spoken = "";
let measured = { key: "", isCut: false }; // the last measurement: whether this sentence was too long for a bar of this width

/** @param {State} state  @param {View} view  @param {number} now */
export function renderBar(state, view, now) {
	const own = barOf(state, view, now);
	const ofAll = state.tab === "list" && ["idle", "done"].includes(own.phase); // a verb that is under way is more important
	const bar = ofAll ? lookOfAll(state, now) : own;
	const box = $("outcome");
	const isNew = box.dataset.phase !== bar.phase;
	Object.assign(box.dataset, { tone: bar.tone, phase: bar.phase });
	setIcon(box, bar.icon, bar.live);
	box.dataset.long = String(bar.word.length > 17);
	setTexts({ "outcome-word": bar.word, "outcome-timer": bar.timer, "outcome-act": bar.actLabel, "outcome-hint": bar.hint });
	renderSteps(bar.steps); // first, because the sentence has less room beside steps
	const isCut = renderSentence(bar);
	$("outcome-act").dataset.act = bar.act;
	setShown({ "outcome-act": bar.act });
	setItems($("outcome-cures"), bar.cures, makeCure);
	setList($("outcome-lines"), bar.lines);
	const there = /^https?:\/\/[\w.:[\]/~%-]+$/.exec(bar.url)?.[0];
	if (there) {
		/** @type {HTMLAnchorElement} */ ($("there")).href = there;
		setText($("there"), there);
	}
	const details = isCut || bar.hint || bar.lines.length || bar.cures.length || there;
	setShown({ there, "see-health": bar.phase === "disconnected", after: details && hidden !== outcomeKey(view), now: bar.act === "ask-again" });
	speak(bar, view);
	if (isNew && !["idle", "locked", "checking", "disconnected"].includes(bar.phase)) bringIntoSight(box);
}

/** Scrolls to the bar. On an enlarged page, the bar is at the end of the page, far below the button that was pressed. @param {HTMLElement} box */
function bringIntoSight(box) {
	const dock = /** @type {HTMLElement} */ (box.parentElement);
	if (getComputedStyle(dock).position === "static") box.scrollIntoView({ block: "nearest" });
}

/** Shows the whole sentence, in the details if it does not fit into the bar. Returns whether it did not fit. @param {import("./bar.js").Bar} bar */
function renderSentence({ sentence: words, brief = "" }) {
	const key = `${innerWidth}x${innerHeight} ${getComputedStyle(document.body).fontSize} ${words}`;
	if (brief && key !== measured.key) {
		setText($("outcome-sentence"), words);
		const { scrollHeight, clientHeight } = /** @type {HTMLElement} */ ($("outcome-sentence").parentElement);
		measured = { key, isCut: scrollHeight > clientHeight };
	}
	const isCut = brief !== "" && measured.isCut;
	setTexts({ "outcome-sentence": isCut ? brief : words, "outcome-whole": isCut ? ended(words) : "" });
	return isCut;
}

/** @param {View} view */
const outcomeKey = ({ vm, phase, since }) => `${vm} ${phase} ${since}`;

/** Closes the details of this outcome. @param {View} view */
export function hideDetails(view) {
	hidden = outcomeKey(view);
}

/** Announces each phase and each stage once to a screen reader, and never the seconds. @param {import("./bar.js").Bar} bar  @param {View} view */
function speak(bar, view) {
	const stage = bar.steps.find(({ tone }) => tone === "busy")?.label;
	const key = [view.vm, bar.phase, bar.word, stage, view.watch?.found].join();
	if (key === spoken || bar.phase === "idle") return;
	spoken = key;
	const words = stage && bar.phase === "running" ? `${stage}.` : [bar.word, bar.sentence, bar.hint].map(sentence).join(" ").trim();
	setText($("say-outcome"), words);
}

/** @param {Step[]} steps */
function renderSteps(steps) {
	const list = $("steps");
	setShown({ steps: steps.length });
	if (list.childElementCount !== steps.length) list.replaceChildren(...steps.map(() => makeStep()));
	steps.forEach((step, n) => drawStep(/** @type {HTMLElement} */ (list.children[n]), step));
}

const makeStep = () => make("li", make("progress"), make("span"), icon("check"), make("small"));

const MARKS = { __proto__: null, good: "check", bad: "cross", warn: "hung", busy: "working", unknown: "unknown", "": "ring" };

/** @param {HTMLElement} item  @param {Step} step */
function drawStep(item, { label, tone, seconds, limit }) {
	const [bar, word, , small] = /** @type {[HTMLProgressElement, HTMLElement, Element, HTMLElement]} */ ([...item.children]);
	item.dataset.tone = tone;
	setIcon(item, MARKS[tone]);
	setText(word, label);
	setText(small, seconds === null ? "" : tone === "busy" ? "" : `${seconds} s`);
	bar.hidden = tone !== "busy";
	bar.ariaLabel = label;
	bar.max = limit;
	bar.value = Math.min(seconds ?? 0, limit);
}
