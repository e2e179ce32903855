// What each button does, and what the page needs once there is a key. app.js loads this module after the first screen.

import { isAsking, stopAsking } from "./base/dialog.js";
import { $, copyText } from "./base/dom.js";
import { keep, recall } from "./base/storage.js";
import { renderChat, withChat } from "./chat/load.js";
import { askForget, describeKey, keepOrNot, keyInAddress, takeKept, unlock } from "./key/key.js";
import { draw, startDrawing } from "./state/draw.js";
import { pollHealth } from "./state/health.js";
import { refreshHistory } from "./state/history.js";
import { dispatch, getState, viewOf } from "./state/store.js";
import { chooseVm, endOpening, followLink, isKnown, openLink, showTab, takeLink } from "./vm/go.js";
import { checkAll, wakeOrSleep, watchGuest } from "./vm/look.js";
import { hideDetails } from "./vm/render_bar.js";
import { enlargePicture } from "./vm/render_console.js";
import { openJob, renderHistory } from "./vm/render_history.js";
import { renderList } from "./vm/render_list.js";
import { askAgain, runVerb, stopWaiting } from "./vm/run.js";

async function watchHolder() {
	const { vm } = getState();
	const { holder, seen } = viewOf(vm);
	const job = (holder ?? seen?.holder)?.job;
	showTab("history");
	await (job ? openJob(vm, job) : refreshHistory(vm));
}

/** @type {Record<string, () => unknown>} what the button of the bar does, by the name of its act */
const ACTS = {
	look: () => runVerb("forensics"),
	"stop-waiting": stopWaiting,
	"ask-again": askAgain,
	"try-now": pollHealth,
	watch: watchHolder,
	"stop-looking": () => dispatch("watch-ended", { found: "unseen" }),
	"keep-looking": () => watchGuest(getState().vm),
	"look-all": checkAll,
	anyway: () => runVerb(viewOf().verb, { more: { anyway: viewOf().offer } }), // with a new id, because the refused id can't act any more
};

/** Copies the text above a button. @param {HTMLElement} button */
const copyAbove = (button) => copyText(/** @type {Element} */ (button.lastElementChild), button.previousElementSibling?.textContent ?? "");

/** @type {Record<string, (button: HTMLElement) => unknown>} */
const PRESSED = {
	forget: askForget,
	"ask-rest": () => withChat((chat) => chat.askForRest()),
	recap: () => withChat((chat) => chat.sendPrompt(true)),
	"stop-turn": () => withChat((chat) => chat.stopTurn()),
	"show-vms": () => showTab("list"),
	glass: enlargePicture,
	"copy-console": (button) => copyText(/** @type {Element} */ (button.lastElementChild), $("console-text").textContent ?? ""),
	"close-large": () => /** @type {HTMLDialogElement} */ ($("large")).close(),
	print: () => print(),
	"save-report": async () => (await import("./vm/report.js")).saveReport(),
	"hide-after"() {
		hideDetails(viewOf());
		draw();
	},
	earlier: () => withChat((chat) => chat.showTalks()),
	"new-talk": () => withChat((chat) => chat.openTalk(getState().vm)),
	"let-check": () => withChat((chat) => chat.letClaudeCheck(undefined, true)),
	"to-end": () => withChat((chat) => chat.scrollToEnd()),
	"copy-words": copyAbove, "copy-output": copyAbove,
};

/** Shows a VM, and one of its conversations. @param {string} vm  @param {string} talk  @param {string} [id] */
function openTalk(vm, talk, id) {
	if (!isKnown(vm)) return;
	chooseVm(vm);
	withChat((chat) => chat.openTalk(vm, talk, id));
}

/** Shows a VM, and asks about the verb that Claude proposed for it. @param {string} verb  @param {string} vm  @param {string} [id]  @param {string} [why] */
function approveProposal(verb, vm, id, why) {
	if (!isKnown(vm)) {
		dispatch("proposal-noted", { job: id, words: "There is no such VM here." });
		return;
	}
	chooseVm(vm);
	runVerb(verb, { more: { id, reason: why } });
}

/** @param {HTMLElement} button */
function press(button) {
	const { verb, approve, job, vm, why, act, show, copy, say, edit, find, talk, talkVm = "", talkId } = button.dataset;
	if (verb) runVerb(verb);
	else if (act) ACTS[act]();
	else if (show) showTab(show);
	else if (copy) copyText(/** @type {Element} */ (button.lastElementChild), copy);
	else if (say) withChat((chat) => chat.sendPrompt(false, say));
	else if (edit) withChat((chat) => chat.editPrompt(edit));
	else if (find) {
		/** @type {HTMLInputElement} */ ($("find")).value = find;
		draw();
	} else if (talk) openTalk(talkVm, talk, talkId);
	else if (approve) approveProposal(approve, vm ?? "", job, why);
	else if (vm) {
		chooseVm(vm);
		showTab("vm");
	} else PRESSED[button.id]?.(button);
}

document.addEventListener("click", ({ target }) => {
	const button = /** @type {Element} */ (target).closest("button");
	if (button) press(button);
});
document.addEventListener("visibilitychange", () => {
	if (document.hidden && isAsking()) stopAsking();
	if (!document.hidden) pollHealth();
	wakeOrSleep();
});
$("find").addEventListener("input", draw);
$("keep-key").addEventListener("change", keepOrNot);
const keyboard = matchMedia("(hover: hover) and (pointer: fine)"); // whether Enter is a key of a real keyboard
$("prompt").addEventListener("keydown", (event) => {
	const { key, ctrlKey, metaKey, shiftKey, isComposing } = event;
	if (key === "Escape") withChat((chat) => chat.stopTurn());
	if (key !== "Enter" || isComposing || !(ctrlKey || metaKey || (keyboard.matches && !shiftKey))) return;
	event.preventDefault();
	withChat((chat) => chat.sendPrompt());
});
addEventListener("hashchange", () => {
	if (!followLink()) return;
	const given = keyInAddress();
	if (given) unlock(given);
});

/** @param {EventTarget|null} form */
export function submit(form) {
	if (form === $("ask")) withChat((chat) => chat.sendPrompt());
	else unlock(/** @type {HTMLInputElement} */ ($("secret")).value);
}

startDrawing(
	renderChat, describeKey,
	(_, __, ___, named) => renderHistory(named),
	(state, _, now) => state.tab === "list" && renderList(state, now, draw),
);

/** Opens the place of the address, and takes the key of the address, or the key of this device if it `keeps` keys. @param {boolean} keeps */
export async function open(keeps) {
	takeLink();
	const given = keyInAddress();
	if (given) keep("session", "demo", true);
	await openLink();
	if (given || !crypto.subtle) await unlock(given);
	else await takeKept(keeps);
	dispatch("key-missing");
	const { health, unlocked } = getState();
	if (!await openLink() && unlocked && health.vms.length > 1 && !recall("local", "vm")) showTab("list");
	endOpening();
}
