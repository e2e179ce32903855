// The looks that the page takes by itself: when it opens or wakes, and after a start at the console. They change nothing.

import { newId, post, sleep } from "../base/send.js";
import { MINUTE } from "../base/words.js";
import { dropHistory, findJob, refreshHistory } from "../state/history.js";
import { isCheckDue, knownOf, proxmoxTrouble, recentEvidence, resting, vmHealth } from "../state/rules.js";
import { dispatch, getState, openViews, subscribe, viewOf } from "../state/store.js";
import { bringsUp, mutates } from "../state/verbs.js";
import { dropUnasked, resumeVerb, runVerb } from "./run.js";

const SCREEN_MS = 3_000;
const WATCH_S = 90;
/** The watch ends after so many looks in a row that can show no sign of the guest. One look may only have failed. */
const MOST_BLIND = 3;
/** How many VMs of the list are checked at once. A browser has six connections, and while a host hangs a verb needs one of them. */
const AT_ONCE = 3;
/** An answer that is younger than this counts as current. */
const RECENT_MS = 15_000;

/** @type {string|null} the VM that the page looks at again once its present reading has ended */
let owed = null;

/** Checks a VM, and takes new evidence if the newest evidence is older than a minute. @param {string} vm */
export async function lookAt(vm) {
	dispatch("look-begun", { vm }); // until the history arrives, the page claims nothing that a status alone can't know
	await takeLook(vm).finally(() => dispatch("look-over", { vm }));
}

/** @param {string} vm */
async function takeLook(vm) {
	await Promise.all([runVerb("status", { vm, unasked: true, quiet: viewOf(vm).phase !== "idle" || Boolean(viewOf(vm).seen) }), refreshHistory(vm)]);
	const view = viewOf(vm);
	const { seen, open, mayLook } = view;
	if (view.reading) { // another check, which the person sees, has replaced this one, as when the handler answers again
		owed = vm;
		return;
	}
	if (vm !== getState().vm && view.phase !== "failed") return; // the person looks at another VM now
	if (!getState().unlocked || !seen || open || seen.holder || !mayLook || document.hidden || seen.state === "elsewhere") return;
	const recent = recentEvidence(view, Date.now() + getState().clockOff);
	if (recent) return showPicture(vm, recent.id, seen.last, recent);
	const answer = await runVerb("forensics", { vm, quiet: true, more: { reason: "by itself" } }); // the host runs power verbs first
	if (answer?.code === "forbidden") dispatch("look-refused", { vm });
}

/** Shows a capture's picture and the guest's last words, and its verdict if another caller took the capture. @param {string} vm  @param {string} id  @param {string|null} last  @param {import("../state/shape.js").Job} [evidence] */
async function showPicture(vm, id, last, evidence) {
	if (evidence) dispatch("evidence-came", { vm, verdict: evidence.verdict, taken: Date.parse(evidence.started) - getState().clockOff });
	const job = await findJob(vm, id);
	const picture = job?.screen_png ? { png: job.screen_png, started: job.started, last, rows: job.screen_text } : null;
	const words = job?.last_words?.length ? { lines: job.last_words, at: Date.parse(job.started) - getState().clockOff } : null;
	dispatch("picture-came", { vm, picture, words });
}

/** Looks at the guest's picture and heartbeat every 3 s until the guest is back, or for 90 s. A device that slept looks once more. @param {string} vm */
export async function watchGuest(vm) {
	dispatch("watch-begun", { vm, seconds: WATCH_S });
	const { until } = viewOf(vm).watch ?? { until: 0 };
	const goesOn = () => getState().unlocked && viewOf(vm).watch?.on && viewOf(vm).watch?.until === until;
	let [answeredAt, blind] = [0, 0];
	for (;;) {
		await sleep(SCREEN_MS);
		if (!goesOn()) return;
		if (document.hidden) continue;
		if (getState().vm === vm) runVerb("status", { vm, quiet: true }); // the guest's heartbeat ends the watch
		const found = getState().vm === vm ? await takeScreen(vm) : "";
		if (!goesOn()) return;
		if (found) answeredAt = Date.now();
		blind = found === "blind" ? blind + 1 : 0;
		if (found === "unseen" || blind >= MOST_BLIND) return dispatch("watch-ended", { vm, found: "unseen" });
		if (Date.now() < until) continue;
		return dispatch("watch-ended", { vm, found: Date.now() - answeredAt < RECENT_MS ? "nothing" : "unseen" });
	}
}

/** Whether an answer without a picture comes from a guest that never showed one, and that has neither an agent nor a heartbeat.
 * @param {import("../state/shape.js").View} view  @param {any} answer */
const isBlind = ({ picture, beats, heartbeat }, { screen_png: png, guest, state }) => state === "running" && !(png || guest || picture || beats) && (heartbeat?.state ?? "none") === "none";

/** Looks at the console once. Returns whether this caller may not see it, the guest can show nothing or shows nothing, or an empty text if no answer came. @param {string} vm */
async function takeScreen(vm) {
	const body = JSON.stringify({ verb: "screen", vm: vm || undefined });
	const answer = await post("pve", newId(), body, AbortSignal.timeout(8_000));
	const { error, outcome, screen_png: png, screen_text: rows, started, guest, state } = answer ?? {};
	const refused = ["forbidden", "unauthorized"].includes(error?.code); // this caller may not see the console
	if (refused) return "unseen";
	if (outcome !== "done") return "";
	const picture = png ? { png, started: started ?? new Date().toISOString(), last: viewOf(vm).seen?.last ?? null, live: true, rows } : null;
	dispatch("screen-came", { vm, picture, guest, state });
	return isBlind(viewOf(vm), answer) ? "blind" : "nothing";
}

let hiddenSince = 0;

/** Whether the page has looked at nothing since the last outcome. @param {import("../state/shape.js").View} view */
const isUnseen = ({ phase, lookedAt, since }) => !lookedAt || (phase === "failed" && lookedAt < since);

/** Whether the page may look by itself: nothing is under way, and the page has not looked after the last failure yet. @param {import("../state/shape.js").View} view */
const mayLookNow = (view) => view.phase === "idle" || (view.phase === "failed" && isUnseen(view));

/** Handles that the page was shown again or hidden. If the last look is a minute old, the page looks again. */
export function wakeOrSleep() {
	if (document.hidden) {
		hiddenSince = Date.now();
		return;
	}
	const { vm, unlocked } = getState();
	const view = viewOf(vm);
	const calm = unlocked && mayLookNow(view) && !view.watch?.on;
	owed = calm && (isUnseen(view) || Date.now() - hiddenSince > MINUTE) ? vm : null;
	checkIfDue();
}

/** @type {Set<string>} the VMs of the list whose check waits */
const waiting = new Set();
/** @type {Set<string>} the VMs about which a host did not answer together with others, or that two hosts have */
const apart = new Set();
let checking = 0;

/** Checks all VMs, for the list. */
export function checkAll() {
	apart.clear();
	checkEach(getState().health.vms.map(({ name }) => name));
}

/** Checks VMs for the list, a few at a time. @param {string[]} names */
function checkEach(names) {
	for (const name of names) waiting.add(name);
	while (checking < AT_ONCE && waiting.size) checkWaiting();
}

/** Checks the VMs that wait. A host that is known to be out of reach answers late, so its VMs come last. */
async function checkWaiting() {
	checking++;
	try {
		while (waiting.size) {
			const state = getState();
			const names = [...waiting];
			const name = names.find((each) => !proxmoxTrouble(state, knownOf(state, each))) ?? names[0];
			const host = hostOf(name);
			const mates = host ? names.filter((each) => hostOf(each) === host) : [name];
			for (const each of mates) waiting.delete(each);
			await (host ? askHost(mates) : runVerb("status", { vm: name, quiet: true }));
		}
	} finally {
		checking--;
	}
}

/** Returns the host that may be asked about a VM together with others. @param {string} name */
const hostOf = (name) => !apart.has(name) && vmHealth(getState(), name)?.host;

/** Asks a host for the states of its VMs. The page asks separately for each VM that is missing in the answer, as with an older host agent. @param {string[]} names */
async function askHost(names) {
	openViews(names); // only now, because a thousand at once take too long
	dispatch("states-asked", { names });
	const body = JSON.stringify({ verb: "states", vm: names[0] });
	const answer = await post("pve", newId(), body, new AbortController().signal) ?? { message: "no answer came back" };
	if (!getState().unlocked) return;
	const { error, reached, states } = answer;
	if (states || !(error || reached)) dispatch("states-came", { names, answer, clockOff: getState().clockOff });
	if (!error && !reached) return;
	const told = new Set(states?.filter((/** @type {any} */ { verdict }) => verdict?.code !== "stale-copy").map((/** @type {any} */ { vm }) => vm));
	const untold = names.filter((name) => !told.has(name));
	for (const name of untold) apart.add(name);
	checkEach(untold);
}

/** Starts the looks that are due, once a second. While the list is shown, each of its VMs is checked, because the rows would grow old. */
export function checkIfDue() {
	const state = getState();
	const { vm } = state;
	const view = viewOf(vm);
	if (document.hidden) return;
	if (owed === vm && !view.reading && mayLookNow(view)) {
		owed = null;
		lookAt(vm);
	}
	const isDue = (/** @type {string} */ name) => isCheckDue(getState(), knownOf(getState(), name), Date.now());
	if (isDue(vm)) runVerb("status", { vm, quiet: true });
	const names = state.tab === "list" ? state.health.vms.map(({ name }) => name) : [];
	if (names.length) checkEach(names.filter(isDue));
	else waiting.clear();
}

/** @type {WakeLockSentinel|null} */
let lock = null;

/** Keeps the screen on while a verb runs or its guest comes back, because a phone locks itself before a power-cycle ends. */
async function holdScreen() {
	const view = getState().views[getState().vm];
	const wanted = !document.hidden && Boolean(view?.acting || view?.watch?.on);
	if (wanted === Boolean(lock) || !navigator.wakeLock) return;
	if (!wanted) {
		const held = lock;
		lock = null;
		await held?.release?.();
		return;
	}
	lock = /** @type {any} */ ({}); // asked for
	try {
		lock = await navigator.wakeLock.request("screen");
		lock.addEventListener("release", () => { lock = null; });
	} catch {
		lock = null; // the battery is low; the page looks again when the device wakes
	}
}

/** Takes the looks that follow the end of a verb. @param {Partial<import("../state/shape.js").View>} before  @param {import("../state/shape.js").Event_} event */
function lookAfter({ seen, jobs, jobsTrouble }, { vm = "", id, verb, answer: { outcome, reached, last, holder } }) {
	const changes = mutates(verb);
	if (verb === "forensics" && outcome === "done") showPicture(vm, id, last);
	const calm = seen?.last === last && !jobsTrouble && jobs?.every((each) => each.outcome);
	const isRow = vm !== getState().vm; // whether this is a VM of the list, whose jobs are read only when a person opens it
	if (reached && !(verb === "status" && (calm || isRow))) refreshHistory(vm);
	const view = viewOf(vm);
	const isOthers = verb === "status" && reached && seen && seen.last !== last && !holder; // whether another tab or another caller has run a job
	if (isOthers && !isRow && resting(view) && !view.looking) lookAt(vm);
	if (!changes) return;
	if (outcome === "done" && bringsUp(verb)) watchGuest(vm);
	if (outcome === "failed") lookAt(vm); // the verb has changed the state that the evidence before it describes
	else runVerb("status", { vm, quiet: true });
}

/** Attaches to the verb that was under way before the page was reloaded. Without such a verb, looks at the VM. @param {string} vm */
function openVm(vm) {
	if (!resumeVerb()) lookAt(vm);
}

/** Ends the reads of a VM that is no longer shown. A browser has six connections, and a host that hangs would occupy them for minutes. @param {string} vm */
function leaveVm(vm) {
	dropUnasked(vm);
	dropHistory(vm);
}

subscribe((state, before, event) => {
	holdScreen();
	if (event.type === "tick") checkIfDue();
	const { vm } = state;
	if (event.type === "vm-chosen" && vm !== before.vm) leaveVm(before.vm);
	if (event.type === "unlocked" || (event.type === "vm-chosen" && state.unlocked && (vm !== before.vm || before.unknownVm))) openVm(vm);
	if (event.type === "look-due") lookAt(vm);
	const fell = (/** @type {import("../state/shape.js").State} */ { views }) => views[vm]?.watch?.found === "fallen";
	if (fell(state) && !fell(before) && before.views[vm]) lookAt(vm); // the picture and the last words of a capture say why the guest fell
	if (event.type === "settled") lookAfter(before.views[event.vm ?? ""] ?? {}, event);
	if (event.type !== "health-came" || before.health.fails < 2 || !state.unlocked) return;
	const view = viewOf();
	runVerb("status", { quiet: !resting(view) || view.phase !== "idle" });
});
