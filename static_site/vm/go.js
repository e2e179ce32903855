// Where the page goes: by a press, by a link, and by the browser's Back and Forward.

import { isAsking, stopAsking } from "../base/dialog.js";
import { keep } from "../base/storage.js";
import { addressOf, isSamePlace, placeOf, vmHealth } from "../state/rules.js";
import { dispatch, getState, subscribe, viewOf } from "../state/store.js";
import { checkEach } from "./look.js";
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
	if (tab === "list") lookAtAll();
	dispatch("tab-chosen", { tab });
	scrollTo(0, 0);
}

/** A quick look at each VM, for the list. */
function lookAtAll() {
	checkEach(getState().health.vms.map(({ name }) => name));
}

let leads = true; // the page was led to where it is: until it has begun, by a link, and by Back

/** What `work` shows is the place of the entry that the browser's history is at. @param {() => unknown} work */
function lead(work) {
	leads = true;
	work();
	queueMicrotask(() => { leads = false; }); // after the place was noted
}

/** Back shows what was shown. @param {import("../state/rules.js").Place} place */
function goBack({ vm, tab }) {
	if (isAsking()) stopAsking(); // it asks about what was on the screen
	chooseVm(vm);
	showTab(getState().unlocked ? tab : "vm");
}

/** Notes the place that is shown, once for all that changes at once. A reload shows the same VM. */
function notePlace() {
	const place = placeOf(getState());
	const waits = !getState().unlocked || location.hash.startsWith("#pair="); // a link waits for the key through a reload
	const address = waits ? undefined : addressOf(getState());
	if (leads) history.replaceState(place, "", address);
	else if (!isSamePlace(place, history.state)) history.pushState(place, "", address);
}

let link = ""; // what this page was opened by, until all of it is shown
/** Takes up the link in the address, if there is one. */
export function takeLink() {
	link = location.hash.includes("vm=") ? location.hash : "";
}

/** `#vm=NAME&job=ID` opens that VM and that job. An unknown name is said, and no other VM is opened in its place.
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

/** The page has begun: what is shown from now on, a person went to. */
export function endOpening() {
	hasBegun = true;
	lead(notePlace);
}

/** A link was followed, unless it was Back that led there. Returns whether it was. */
export function followLink() {
	if (history.state) return false;
	if (isAsking()) stopAsking(); // it asks about what was on the screen
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
	// The names that are kept here may be older than the link.
	if (state.unknownVm && state.health.vms !== before.health.vms && vmHealth(state, state.unknownVm)) openLink();
});
