// What the page knows, and what stands in a button's way.

import { PHASES, clock, trouble } from "./words.js";

const LOCK_MS = 60_000;

export const me = { key: null, vm: "", clockOff: 0 };
export const health = { heard: null, fails: 0, at: 0, downSince: 0, next: 0, timer: 0 };
export const views = new Map();

// In these the page may check by itself.
export const RESTING = new Set(["idle", "done", "notSent", "refused", "busy", "failed"]);

const newView = (vm) => ({
	vm,
	phase: "idle", label: "", sentence: "", hint: "", lines: [], since: 0,
	seen: null, // {state, last, at, holder}
	warnings: [], // and, once known: verdict, picture, jobs, note, trouble, holder
	byHand: store("local", `by-hand ${vm}`) ?? [],
	output: { title: "", text: "" },
	sent: new Set(), open: new Set(), // ids; open until the host has said how it ended
	triedAt: 0, lockedSince: 0,
});

export function here() {
	if (!views.has(me.vm)) views.set(me.vm, newView(me.vm));
	return views.get(me.vm);
}

let draw = () => {};
export const onChange = (how) => { draw = how; };
export const changed = () => draw();

export function enter(view, phase, told = {}) {
	Object.assign(view, { phase, sentence: PHASES[phase][3], hint: "", lines: [], since: Date.now() }, told);
	changed();
}

export function phaseOf(view) {
	if (!me.key) return "locked";
	return health.fails > 1 && RESTING.has(view.phase) ? "disconnected" : view.phase;
}

// The browser's memory: words only, never a secret.
export function store(where, name, value) {
	try {
		if (value === undefined) return JSON.parse(window[`${where}Storage`].getItem(name));
		window[`${where}Storage`].setItem(name, JSON.stringify(value));
	} catch {}
	return null;
}

export function forgetStored() {
	try {
		localStorage.clear();
		sessionStorage.clear();
	} catch {}
}

// What each button does is written on it; the page has no other list of verbs.
export const BUTTONS = { __proto__: null }; // an answer may name anything, `constructor` too
for (const b of document.querySelectorAll("[data-verb]")) BUTTONS[b.dataset.verb] = b;
export const labelOf = (verb) => BUTTONS[verb]?.firstChild.data.trim().replace("…", "") ?? verb;
export const mutates = (verb) => verb !== "history" && "asks" in BUTTONS[verb].dataset;

export function obstacle(view, verb) {
	const phase = phaseOf(view);
	if (phase === "locked") return "Enter the signing key first.";
	if (phase === "checking" || (view.reading && view.job && !mutates(verb))) return "Wait for the answer.";
	if (phase === "running") return `${view.label} is under way.`;
	if (verb === "status") return "";
	if (phase === "disconnected") return "The handler is not answering.";
	if (view.job && mutates(verb)) return `Not known yet whether the ${view.label.toLowerCase()} happened.`;
	const what = proxmoxTrouble(view);
	return what && `Proxmox is out of reach: ${what}.`;
}

export const pointless = (view, verb) =>
	(view.seen && BUTTONS[verb].dataset.pointless === view.seen.state ? `It is ${view.seen.state}.` : "");

// A lock is a hint, never a wall: after a minute a person may know better.
export const mayAnyway = (view) => me.key && view.lockedSince > 0 && Date.now() - view.lockedSince >= LOCK_MS;

export function watchLock(view) {
	if (!me.key || !obstacle(view, "reset")) view.lockedSince = 0;
	else view.lockedSince ||= Date.now();
}

export const vmHealth = (name = me.vm) => (health.heard?.vms ?? store("local", "vms"))?.find((vm) => vm.name === name);

export function fullName() {
	const vm = vmHealth();
	return vm?.vmid ? `${vm.name} (VM ${vm.vmid})` : me.vm || "the VM";
}

export function proxmoxTrouble(view) {
	const code = !health.fails && health.heard && vmHealth(view.vm)?.proxmox;
	const newer = view.seen?.at > health.at; // a status that came back since is better news
	return !code || newer || code === "answering" || code === "not-checked" ? "" : trouble(code);
}

export function holding({ by, verb, since, stage }) {
	const doing = BUTTONS[verb]?.dataset.doing ?? `at it (${verb})`;
	return `${by} is ${doing} it since ${clock(since)}${stage ? ` (stage: ${stage})` : ""}.`;
}
