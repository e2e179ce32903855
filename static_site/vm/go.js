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

let leads = true; // whether the page came to this place at its opening, by a link or by Back, and not by a press

/** Runs `work`, which shows the place of the present entry of the browser's history, so no new entry is added. @param {() => unknown} work */
function lead(work) {
	leads = true;
	work();
	queueMicrotask(() => { leads = false; }); // after the place has been noted
}

/** Shows the place to which Back or Forward led. @param {import("../state/rules.js").Place} place */
function goBack({ vm, tab }) {
	if (isAsking()) stopAsking(); // the dialog asks about what was on the screen before
	chooseVm(vm);
	showTab(getState().unlocked ? tab : "vm");
}

/** Writes the shown place into the browser's history, once for all changes of one moment. A reload then shows the same VM. */
function notePlace() {
	const place = placeOf(getState());
	const waits = !getState().unlocked || location.hash.startsWith("#pair="); // a link that waits for the key must survive a reload
	const address = waits ? undefined : addressOf(getState());
	if (leads) history.replaceState(place, "", address);
	else if (!isSamePlace(place, history.state)) history.pushState(place, "", address);
}

let link = ""; // the link to follow, kept until its VM is known and the page is unlocked, because its job needs the key
/** Takes the link from the address, if there is one. */
export function takeLink() {
	link = location.hash.includes("vm=") ? location.hash : "";
}

/** Opens the VM and the job of the link `#vm=NAME&job=ID`. If the name is unknown, the page says so and opens no other VM.
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
	if (!unlocked) return true; // the job can't be read before the key is there
	link = "";
	if (job) await openJob(name, job);
	return true;
}

let hasBegun = false;

/** Ends the opening of the page. After this, the person chooses what is shown. */
export function endOpening() {
	hasBegun = true;
	lead(notePlace);
}

/** Follows the link, unless Back led to that link. Returns whether the link was followed. */
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
	// The stored names of VMs may be older than the link, so the link is tried again with new names.
	if (state.unknownVm && state.health.vms !== before.health.vms && vmHealth(state, state.unknownVm)) openLink();
});
