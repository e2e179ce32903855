// The dialog that asks before anything that can't be undone. Esc, Enter and Back mean no.

import { $, icon, make, setText } from "./dom.js";

const ARMED_MS = 400; // so that the second press of a double click is not an answer

/** @typedef {{title: string, small?: string, facts: {term: string, words: string, tone?: string, icon?: string}[], yes: string, keep: string,
 *   yesIcon?: string, danger?: boolean}} Question */

let decide = (/** @type {boolean} */ _yes) => {};
/** @type {ReturnType<typeof setTimeout>|undefined} */
let arming;

const dialog = /** @type {HTMLDialogElement} */ ($("confirm"));
export const isAsking = () => dialog.open;
export const stopAsking = () => dialog.close();

/** Asks a person, and returns whether the answer was yes. @param {Question} question  @returns {Promise<boolean>} */
export function askPerson({ title, small = "", facts, yes, keep, yesIcon, danger = true }) {
	setText($("confirm-title"), title);
	setText($("confirm-small"), small);
	setText($("keep"), keep);
	$("confirm-facts").replaceChildren(...facts.map(renderFact));
	$("yes").replaceChildren(...yesIcon ? [icon(yesIcon)] : [], make("span", yes));
	$("yes").classList.toggle("danger", danger);
	decide(false);
	clearTimeout(arming);
	$("yes").ariaDisabled = "true";
	arming = setTimeout(() => { $("yes").ariaDisabled = "false"; }, ARMED_MS);
	dialog.showModal();
	return new Promise((resolve) => { decide = resolve; });
}

/** @param {{term: string, words: string, tone?: string, icon?: string}} fact */
function renderFact({ term, words, tone, icon: name }) {
	const value = make("dd", ...name ? [icon(name)] : [], make("span", words));
	if (tone) value.dataset.tone = tone;
	return make("div", make("dt", term), value);
}

$("yes").addEventListener("click", ({ isTrusted }) => {
	if (!isTrusted || $("yes").ariaDisabled === "true") return;
	decide(true);
	dialog.close();
});
$("keep").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => dialog.open || decide(false));
