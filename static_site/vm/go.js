// Moves the page to another VM or place, by a press, by a link, or by the browser's Back and Forward.

import { isAsking, stopAsking } from "../base/dialog.js";
import { keep } from "../base/storage.js";
import { addressOf, isSamePlace, placeOf, vmHealth } from "../state/rules.js";
import { dispatch, getState, subscribe, viewOf } from "../state/store.js";
import { checkAll } from "./look.js";
import { clearTrouble, openJob } from "./render_history.js";

/** @param {string} name */
export const isKnown = (name) => Boolean(vmHealth(getState(), name));

/** Shows a VM that is known. @param {string} name */
export function chooseVm(name) {
	if (!isKnown(name)) return;
	viewOf(name);
	dispatch("vm-chosen", { name });
	keep("local", "vm", name);
}

/** @param {string} tab */
export function showTab(tab) {
	clearTrouble();
	if (tab === "list") checkAll();
	dispatch("tab-chosen", { tab });
	scrollTo(0, 0);
}

let leads = true; // no press led the page to where it is, but its beginning, a link or Back

/** What `work` shows is the place of the entry that the browser's history is at. @param {() => unknown} work */
function lead(work) {
	leads = true;
	work();
	queueMicrotask(() => { leads = false; }); // after the place was noted
}

/** Back shows what was shown. @param {import("../state/rules.js").Place} place */
function goBack({ vm, tab }) {
	if (isAsking()) stopAsking(); // the dialog asks about what was on the screen before
	chooseVm(vm);
	showTab(getState().unlocked ? tab : "vm");
}

/** Writes the shown place into the browser's history, once for all changes of a moment, so that a reload shows the same VM. */
function notePlace() {
	const place = placeOf(getState());
	const waits = !getState().unlocked || location.hash.startsWith("#pair="); // a link waits for the key through a reload
	const address = waits ? undefined : addressOf(getState());
	if (leads) history.replaceState(place, "", address);
	else if (!isSamePlace(place, history.state)) history.pushState(place, "", address);
}

let link = ""; // the link that opened this page, until all of the link is shown
/** Follows the link in the address, if there is one. */
export function takeLink() {
	link = location.hash.includes("vm=") ? location.hash : "";
}

/** `#vm=NAME&job=ID` opens that VM and that job. The page reports an unknown name, and opens no other VM in its place.
 * Returns whether there was a link. */
export async function openLink() {
	const asked = new URLSearchParams(link.slice(1));
	const [name, job] = [asked.get("vm"), asked.get("job")];
	if (name === null) return false;
	if (!isKnown(name)) {
		dispatch("vm-unknown", { name: name.slice(0, 63) });
		return true;
	}
	chooseVm(name);
	const { unlocked } = getState();
	showTab(job && unlocked ? "history" : "vm");
	if (!unlocked) return true; // the job waits for the key
	link = "";
	if (job) await openJob(name, job);
	return true;
}

let hasBegun = false;

/** The page has begun, so from now on a person chooses what is shown. */
export function endOpening() {
	hasBegun = true;
	lead(notePlace);
}

/** Follows the link, unless Back led to it. Returns whether it was followed. */
export function followLink() {
	if (history.state) return false;
	if (isAsking()) stopAsking(); // the dialog asks about what was on the screen before
	takeLink();
	lead(openLink);
	return true;
}

addEventListener("popstate", ({ state }) => {
	if (state) lead(() => goBack(state));
});
subscribe((state, before) => {
	if (!isSamePlace(placeOf(state), placeOf(before))) queueMicrotask(notePlace);
	if (hasBegun && link && state.unlocked && !before.unlocked) lead(openLink);
	// The names of VMs that this device keeps may be older than the link.
	if (state.unknownVm && state.health.vms !== before.health.vms && vmHealth(state, state.unknownVm)) openLink();
});
