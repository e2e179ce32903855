// How each event changes the page's state. Pure, because every event has its own time.

import { clock, ended, isVerdict, minute } from "../base/words.js";
import { OF_CHAT, OF_CHATS, spendProposals } from "./conversation.js";
import { addShot } from "./rescue.js";
import { FALLEN, failedOf, noteLock, outcomeOf, reasonOf } from "./rules.js";
import { newView } from "./shape.js";
import { bringsUp, labelOf, mutates } from "./verbs.js";

/** @typedef {import("./shape.js").Picture} Picture */
/** @typedef {import("./shape.js").Watch} Watch */
/** @typedef {import("./shape.js").View} View */
/** @typedef {import("./shape.js").State} State */
/** @typedef {import("./shape.js").Event_} Event_ */

/** @param {View} view  @param {number} at  @param {string} phase  @param {Partial<View>} more  @returns {View} */
const enter = (view, at, phase, more = {}) => ({
	...view, phase, since: at, sentence: "", hint: "", lines: [], cures: [], url: "", offer: "", holder: null, nudge: null, ...more,
});

/** @type {Record<string, (view: View, event: any, state: State) => View>} the events that change the view of one VM */
const OF_VIEW = {
	"read-begun": (view, { at, verb, loud }) => ({
		...(loud ? enter(view, at, "checking", { verb }) : view), reading: verb, triedAt: at, waiting: verb === "forensics",
	}),
	"read-dropped": (view) => ({ ...view, reading: "", waiting: false }),
	"vm-left": (view, { at }) => ({ ...(view.phase === "checking" ? enter(view, at, "idle", {}) : view), reading: "", waiting: false }),
	"waiting-stopped": (view, { at }) => enter({ ...view, reading: "", waiting: false }, at, "idle", { sentence: "You stopped waiting." }),
	"act-begun": (view, { at, id, verb, lost }) => enter(view, at, lost ? "unknown" : "running", {
		verb, open: { id, verb }, acting: true, reading: "", note: "", sent: { ...view.sent, [id]: true },
		stages: view.open?.id === id ? view.stages : [], deadline: null, rescue: view.open?.id === id ? view.rescue : { began: at, shots: view.picture ? [view.picture] : [] }, watch: null, waiting: false, output: { title: "", text: "" },
	}),
	"act-recalled": (view, { id, verb }) => ({ ...view, verb, open: { id, verb }, note: "", sent: { ...view.sent, [id]: true } }),
	"stage-came": (view, { at, id, n, stage, started, deadline }, { clockOff }) => {
		if (view.open?.id !== id) return view;
		const known = view.stages[n]?.name === stage; // a request that attaches gets all stages again from the beginning
		const stages = known ? view.stages : [...view.stages.slice(0, n), { name: stage, at }];
		const ends = deadline ? { started: Date.parse(started) - clockOff, seconds: deadline } : view.deadline;
		const heard = view.phase === "unknown" ? enter(view, at, "running", { since: view.since }) : view;
		return { ...heard, stages, deadline: ends };
	},
	"output-came": (view, { at, verb, text, first }) => ({
		...view,
		output: first ? { title: `${labelOf(verb)} ${minute(at)}`, text } : { ...view.output, text: view.output.text + text },
	}),
	"act-open": (view, { at, answer, acting }) => {
		if (answer.outcome === "running") return { ...(view.phase === "running" ? view : enter(view, at, "running")), acting };
		return enter(view, at, "unknown", {
			acting,
			sentence: acting ? "" : "It may have happened.",
			hint: `Last try, ${clock(at)}: ${ended(reasonOf(answer))}`,
			lines: byHand(answer),
		});
	},
	settled,
	"picture-came": (view, { picture, words }, state) => ({ ...withPicture(view, picture, state), waiting: false, words }),
	"evidence-came": (view, { verdict, taken }) => (view.seen && !view.open ? {
		...view, watch: null, waiting: true, lookedAt: taken, verdict: { ...verdict, state: view.seen.state, last: view.seen.last, from: "forensics", at: taken },
	} : view),
	"jobs-came": (view, { jobs, trouble, chain }) => ({
		...view, jobs: jobs ?? view.jobs ?? [], jobsTrouble: trouble, chain: chain ?? view.chain,
	}),
	"watch-begun": (view, { at, seconds }) => ({
		...view,
		watch: { verb: view.verb, seconds: 0, started: NaN, heard: at, back: null, was: "", fell: "", ...view.watch, since: view.watch?.since ?? at, until: at + 1e3 * seconds, on: true, found: "" },
	}),
	"screen-came": (view, { at, picture, guest, state }, whole) => {
		const seen = view.seen && state && state !== "unknown" ? { ...view.seen, state, at } : view.seen;
		const { watch } = view;
		const found = guest === "answers" ? "guest" : state === "stopped" ? "stopped" : watch?.on && FALLEN[state] ? "fallen" : "";
		const next = watch && found ? { ...watch, on: false, until: at, found, fell: state } : watch;
		return { ...withPicture(view, picture, whole), seen, watch: /** @type {Watch|null} */ (next) };
	},
	"watch-ended": (view, { at, found }) => {
		const { watch } = view;
		if (!watch) return view;
		const late = at - watch.until; // how long after the end of the watch this last look came, as when this device slept
		const until = late > 0 && late < 10_000 ? watch.until : at;
		return { ...view, watch: { ...watch, on: false, until, found: watch.back && found === "nothing" ? "guest" : found } };
	},
	"look-begun": (view) => ({ ...view, looking: true }),
	"look-over": (view) => ({ ...view, looking: false }),
	"look-refused": (view) => ({ ...view, mayLook: false }),
	"sent-heard": (view, { ids }) => (ids.every((/** @type {string} */ id) => id in view.sent) ? view : { ...view, sent: { ...sentOf(ids), ...view.sent } }),
	nudged: (view, { at, words }) => ({ ...view, nudge: { words, at } }),
	"proven-heard": (view, { proven }) => ({ ...view, proven }),
};

/** Returns the view with a new picture of the console, dated by this device's clock. @param {View} view  @param {any} found  @param {State} state  @returns {View} */
function withPicture(view, found, { clockOff }) {
	if (!found) return view;
	/** @type {Picture} */
	const picture = { ...found, at: Date.parse(found.started) - clockOff, rows: Array.isArray(found.rows) ? found.rows.map(String) : [] };
	return { ...view, picture, rescue: addShot(view.rescue, picture) };
}

/** Returns the jobs that this device sent earlier or from another tab. @param {string[]} ids  @returns {Record<string, boolean>} */
export const sentOf = (ids) => Object.fromEntries(ids.map((id) => [id, false]));

/** @param {{by_hand?: string[]}} answer */
const byHand = ({ by_hand: lines = [] }) => lines.map((line) => `By hand: ${line}`);

/** Returns the view after an answer that ends a reading or a changing verb. @param {View} view  @param {any} event  @returns {View} */
function settled(view, { at, id, verb, answer, loud, clockOff }) {
	const changes = mutates(verb);
	let next = remember(view, { at, verb, answer, changes });
	if (changes) {
		next = { ...next, open: null, acting: false, sent: { ...next.sent, [id]: false } };
		if (answer.outcome === "done" && bringsUp(verb)) {
			const started = Date.parse(answer.started);
			next.watch = { verb, seconds: answer.seconds ?? 0, started, heard: at, back: null, was: view.seen?.state ?? "", fell: "", since: at, until: at, on: false, found: "" };
		}
		if (answer.outcome !== "done") next.rescue = null;
		if (answer.outcome === "failed") next.failure = failedOf(verb, answer);
	} else next = { ...next, reading: "", waiting: Boolean(verb === "forensics" && answer.screen), watch: isNewer(view, verb, answer) ? null : hearGuest(view.watch, answer, at) };
	if (verb === "forensics" && answer.outcome === "done") next.lookedAt = at;
	// A failed check is out of date once a later one has succeeded.
	const mends = verb === "status" && view.verb === verb && answer.outcome === "done" && ["failed", "notSent"].includes(view.phase);
	if (!loud && !mends) return next;
	const [phase, more] = outcomeOf(verb, answer, { at, clockOff });
	const keptSince = changes ? { stages: next.stages } : {};
	return enter(next, at, phase, { ...more, ...keptSince, holder: answer.holder ?? null, offer: answer.anyway ?? "", nudge: changes ? null : view.nudge });
}

const GAP_MS = 10_000; // the longest gap between two checks; after a longer one, the guest may have returned much earlier than the check that found it

/** Returns the watch after an answer. The first heartbeat ends the watch. @param {Watch|null} watch  @param {any} answer  @param {number} at  @returns {Watch|null} */
function hearGuest(watch, { outcome, state, heartbeat }, at) {
	if (watch?.on && outcome === "done" && FALLEN[state]) return { ...watch, on: false, until: at, found: "fallen", fell: state };
	if (outcome !== "done" || !watch || watch.back || watch.found === "guest") return watch;
	const ms = Date.parse(heartbeat?.at) - watch.started;
	return ms >= 0 && heartbeat.state === "fresh" ? { ...watch, on: false, until: at, found: "guest", back: { ms, most: at - watch.heard > GAP_MS } } : { ...watch, heard: at };
}

/** Whether the answer of a reading verb is newer or more certain than the watch after a start. @param {View} view  @param {string} verb  @param {any} answer */
const isNewer = ({ seen, watch }, verb, { outcome, last }) => outcome === "done" && ((verb === "forensics" && watch?.found !== "fallen") || seen?.last !== last);

/** Returns the view with all that an answer says about the VM. @param {View} view  @param {any} event  @returns {View} */
function remember(view, { at, verb, answer, changes }) {
	const { outcome, reached, state, last, holder, verdict } = answer;
	const before = view.seen;
	const next = { ...view, warnings: answer.warnings ?? view.warnings, named: answer.proxmox_name ?? view.named };
	if (verb === "status" && outcome === "done") next.heartbeat = answer.heartbeat ?? null;
	next.beats ||= Boolean(next.heartbeat?.at);
	if (answer.by_hand?.length && !changes) next.byHand = answer.by_hand;
	const old = view.verdict;
	// The verdict of a capture is more certain than that of a status.
	const better = verb === "status" && old?.from === "forensics" && old.state === state && old.last === last;
	if (outcome === "done" && !better && (verdict || !changes)) {
		next.verdict = verdict ? { ...verdict, state, last, from: verb, at } : null;
	}
	if (outcome !== "done" && verdict && changes && reached && isVerdict(verdict.code)) next.verdict = { ...verdict, state, last, from: verb, at };
	if (outcome === "busy" && holder && before) next.seen = { ...before, holder }; // so that the page advises nothing while the holder acts
	const looked = ["status", "forensics"].includes(verb) || (changes && reached);
	if (!looked) return next;
	const failed = !reached || !state;
	if (!changes) next.trouble = failed ? `Could not check at ${clock(at)}: ${reasonOf(answer)}.` : "";
	if (failed || (changes && outcome !== "done" && state === "unknown")) return next;
	next.trouble = "";
	next.seen = { state, last, at, holder: holder ?? null };
	if (before?.last && last && last !== "none" && before.last !== last && !(last in view.sent)) {
		next.note = `Another caller changed its power between ${clock(before.at)} and ${clock(at)}.`;
	}
	return next;
}

/** @type {Record<string, (state: State, event: any) => State>} */
const OF_STATE = {
	"key-missing": (state) => (state.key === "sought" ? { ...state, key: "none" } : state),
	unlocked: (state, { good = false }) => ({ ...state, key: "given", keyWasGood: good, leftOpen: "", unlocked: true }),
	locked: (state, { refused, left = "" }) => ({ ...state, key: !refused ? "none" : state.keyWasGood ? "revoked" : "refused", leftOpen: left, unlocked: false, tab: "vm", views: {}, chats: {}, talks: null, proposals: {} }),
	"key-proved": (state) => (state.key === "given" ? { ...state, key: "proved", keyWasGood: true } : state),
	"clock-measured": (state, { off }) => (state.clockOff === off ? state : { ...state, clockOff: off }),
	"vm-chosen": (state, { name }) => ({ ...state, vm: name, unknownVm: "" }),
	"vm-unknown": (state, { name }) => ({ ...state, unknownVm: name }),
	"tab-chosen": (state, { tab }) => ({ ...state, tab }),
	"views-opened": (state, { kept }) => ({ ...state, views: { ...state.views, ...Object.fromEntries(Object.entries(kept).map(([name, of]) => [name, newView(name, of)])) } }),
	"states-asked": (state, { at, names }) => changeViews(state, names, (view) => ({ ...view, triedAt: at })),
	"states-came": takeStates,
	"names-came": (state, { vms, choice }) => chooseFirst({ ...state, health: { ...state.health, vms } }, choice),
	"health-slow": (state) => ({ ...state, health: { ...state.health, slow: true } }),
	"health-came": (state, { at, answer, next }) => ({
		...state, health: { vms: answer.vms, answer, fails: 0, downSince: 0, at, next, slow: false },
	}),
	"health-lost": (state, { at, next }) => ({
		...state,
		health: { ...state.health, fails: state.health.fails + 1, downSince: state.health.downSince || at, next, slow: false },
	}),
	"page-renewed": (state) => ({ ...state, newPage: true }),
	"look-due": (state) => state,
	...OF_CHATS,
	tick: (state) => state,
};

/** Changes the views of some VMs, but not of a VM about which a request is under way.
 * @param {State} state  @param {string[]} names  @param {(view: View) => View} change  @returns {State} */
function changeViews(state, names, change) {
	const free = names.filter((name) => Object.hasOwn(state.views, name) && !state.views[name].reading && !state.views[name].acting);
	return { ...state, views: { ...state.views, ...Object.fromEntries(free.map((name) => [name, change(state.views[name])])) } };
}

/** Takes over the states that a host reports of its VMs, or why the states of `names` are not known. @param {State} state  @param {any} event  @returns {State} */
function takeStates(state, { at, names, answer: { states, outcome, reached, message, verdict, stderr }, clockOff }) {
	const told = new Map(states?.map((/** @type {any} */ each) => [each.vm, { ...each, outcome, reached }]));
	const failure = { outcome, reached, message, verdict, stderr };
	return changeViews(state, states ? [...told.keys()] : names, (view) => settled(view, { at, verb: "status", answer: told.get(view.vm) ?? failure, clockOff }));
}

/** Decides which VM is shown, once the names are known. A view without a name belongs to the only VM.
 * @param {State} state  @param {string} choice  @returns {State} */
function chooseFirst(state, choice) {
	const names = state.health.vms.map(({ name }) => name);
	if (state.vm || !names.length) return state;
	const vm = names.includes(choice) ? choice : names[0];
	const { "": nameless, ...views } = state.views;
	return { ...state, vm, views: nameless ? { ...views, [vm]: { ...nameless, vm } } : views };
}

/** Returns the state after an event. An event about a VM that the state no longer has changes nothing.
 * @param {State} state  @param {Event_} event  @returns {State} */
export function reduce(state, event) {
	const { type, at, vm: name = state.vm } = event;
	const view = Object.hasOwn(state.views, name) ? state.views[name] : null; // hasOwn, because a VM may be called constructor
	const chat = Object.hasOwn(state.chats, name) ? state.chats[name] : null;
	let next = state;
	if (type in OF_VIEW) {
		if (view) next = { ...state, views: { ...state.views, [name]: OF_VIEW[type](view, event, state) } };
	} else if (type in OF_CHAT) {
		if (chat) next = { ...state, chats: { ...state.chats, [name]: OF_CHAT[type](chat, event) } };
	} else next = OF_STATE[type](state, event);
	return noteLock(next.views === state.views && next.proposals === state.proposals ? next : spendProposals(next), at);
}
