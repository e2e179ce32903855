// What the page knows, and how each thing that happens changes it. Pure: every event brings its own time.

import { clock, isVerdict, minute } from "../base/words.js";
import { OF_CHAT, OF_CHATS } from "./conversation.js";
import { obstacle, outcomeOf, reasonOf } from "./rules.js";
import { bringsUp, labelOf, mutates } from "./verbs.js";

/** A job of another caller that holds the VM.
 * @typedef {{job: string, verb: string, by: string, since: string, stage?: string, deadline: number}} Holder */
/** @typedef {{code: string, sentence: string, advice: string, evidence: string[]}} HostVerdict */
/** @typedef {HostVerdict & {state: string, last: string|null, from: string, at: number}} Verdict */
/** @typedef {{id: string, verb: string, by: string, why?: string, started: string, seconds?: number, outcome: string|null,
 *   stage?: string, verdict?: HostVerdict|null, output?: string, screen_png?: string|null, last_words?: string[], screen_text?: string[]}} Job */
/** @typedef {{png: string, started: string, last: string|null, live?: boolean, rows?: string[]}} Picture */
/** @typedef {{state: string, at: string|null, says: string}} Heartbeat as a status tells it */
/** The watch after a verb that brings the VM up. `found`: how it ended. `started`: of the job, by the host's clock.
 * `heard`: the last check without an answer of the guest's kernel. `back`: when that answered first, and whether at the latest then.
 * @typedef {{since: number, until: number, on: boolean, verb: string, seconds: number, started: number, heard: number,
 *   back: {ms: number, most: boolean}|null, found: ""|"guest"|"nothing"|"stopped"|"unseen"}} Watch */

/** What is known of one VM. `open` is the mutating job whose end is not known; `acting` and `reading` are under way.
 * @typedef {object} View
 * @property {string} vm
 * @property {string} phase @property {string} verb @property {number} since
 * @property {string} sentence @property {string} hint @property {string[]} lines @property {string} url
 * @property {string} offer @property {Holder|null} holder
 * @property {{id: string, verb: string}|null} open @property {boolean} acting @property {string} reading
 * @property {{name: string, at: number}[]} stages as they came, some twice @property {{started: number, seconds: number}|null} deadline
 * @property {{state: string, last: string|null, at: number, holder: Holder|null}|null} seen
 * @property {Verdict|null} verdict @property {number} lookedAt @property {boolean} mayLook
 * @property {Heartbeat|null} heartbeat @property {boolean} beats whether the guest ever had one
 * @property {Picture|null} picture @property {boolean} waiting @property {Watch|null} watch
 * @property {Job[]|null} jobs @property {string} jobsTrouble @property {string} chain
 * @property {{title: string, text: string}} output @property {{lines: string[], at: number}|null} words the end of the guest's kernel log
 * @property {string} trouble @property {string} note @property {string[]} warnings @property {string[]} byHand
 * @property {{at?: string, how?: string, seen: number}|null} proven
 * @property {Record<string, boolean>} sent @property {number} triedAt @property {number} lockedSince
 * @property {{words: string, at: number}|null} nudge */

/** @typedef {{name: string, vmid: number|null, proxmox: string, since: string|null}} VmHealth */
/** `key`: whether there is one, and what an answer said of it. `newPage`: the device has a newer one.
 * @typedef {object} State
 * @property {"sought"|"none"|"given"|"proved"|"refused"} key @property {boolean} unlocked @property {string} vm @property {string} tab @property {number} clockOff @property {string} unknownVm
 * @property {boolean} newPage
 * @property {{vms: VmHealth[], answer: any, fails: number, downSince: number, at: number, next: number, slow: boolean}} health
 * @property {Record<string, View>} views @property {Record<string, import("./conversation.js").Chat>} chats @property {number} opened how many conversations were
 * @property {{list: import("./conversation.js").Talk[], none: string}|null} talks the earlier conversations, while they are shown
 * @property {Record<string, import("./conversation.js").Proposal>} proposals by the id of the job that an approval begins */
/** @typedef {{type: string, at: number, vm?: string, [more: string]: any}} Event_ */

/** @param {string} vm  @param {Partial<View>} kept what this device kept of it  @returns {View} */
export const newView = (vm, kept = {}) => ({
	vm, phase: "idle", verb: "status", since: 0, sentence: "", hint: "", lines: [], url: "", offer: "", holder: null,
	open: null, acting: false, reading: "", stages: [], deadline: null,
	seen: null, verdict: null, lookedAt: 0, mayLook: true, picture: null, words: null, waiting: false, watch: null,
	heartbeat: null, beats: false,
	jobs: null, jobsTrouble: "", chain: "", output: { title: "", text: "" },
	trouble: "", note: "", warnings: [], byHand: [], proven: null, sent: {}, triedAt: 0, lockedSince: Infinity, nudge: null,
	...kept,
});

/** @returns {State} */
export const newState = () => ({
	key: "sought", unlocked: false, vm: "", tab: "vm", clockOff: 0, unknownVm: "", newPage: false,
	health: { vms: [], answer: null, fails: 0, downSince: 0, at: 0, next: 0, slow: false },
	views: {}, chats: {}, opened: 0, talks: null, proposals: {},
});

/** @param {View} view  @param {number} at  @param {string} phase  @param {Partial<View>} more  @returns {View} */
const enter = (view, at, phase, more = {}) => ({
	...view, phase, since: at, sentence: "", hint: "", lines: [], url: "", offer: "", holder: null, nudge: null, ...more,
});

/** @type {Record<string, (view: View, event: any, state: State) => View>} of one VM */
const OF_VIEW = {
	"read-begun": (view, { at, verb, loud }) => ({
		...(loud ? enter(view, at, "checking", { verb }) : view), reading: verb, triedAt: at, waiting: verb === "forensics",
	}),
	"read-dropped": (view) => ({ ...view, reading: "", waiting: false }),
	"vm-left": (view, { at }) => ({ ...(view.phase === "checking" ? enter(view, at, "idle", {}) : view), reading: "", waiting: false }),
	"waiting-stopped": (view, { at }) => enter({ ...view, reading: "", waiting: false }, at, "idle", { sentence: "You stopped waiting." }),
	"act-begun": (view, { at, id, verb, lost }) => enter(view, at, lost ? "unknown" : "running", {
		verb, open: { id, verb }, acting: true, reading: "", note: "", sent: { ...view.sent, [id]: true },
		stages: view.open?.id === id ? view.stages : [], deadline: null, watch: null, waiting: false, output: { title: "", text: "" },
	}),
	"act-recalled": (view, { id, verb }) => ({ ...view, verb, open: { id, verb }, note: "", sent: { ...view.sent, [id]: true } }),
	"stage-came": (view, { at, id, n, stage, started, deadline }) => {
		if (view.open?.id !== id) return view;
		const known = view.stages[n]?.name === stage; // who attaches gets all stages again, from the first
		const stages = known ? view.stages : [...view.stages.slice(0, n), { name: stage, at }];
		const ends = deadline ? { started: Date.parse(started), seconds: deadline } : view.deadline;
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
			sentence: acting ? "" : `The ${labelOf(view.verb).toLowerCase()} may have happened. `
				+ "Ask again: it runs at most once.",
			hint: `Last try, ${clock(at)}: ${reasonOf(answer)}`,
			lines: byHand(answer),
		});
	},
	settled,
	"picture-came": (view, { picture, words }) => ({ ...view, waiting: false, picture: picture ?? view.picture, words }),
	"evidence-came": (view, { verdict, taken }) => (view.seen && !view.open ? {
		...view, watch: null, lookedAt: taken, verdict: { ...verdict, state: view.seen.state, last: view.seen.last, from: "forensics", at: taken },
	} : view),
	"jobs-came": (view, { jobs, trouble, chain }) => ({
		...view, jobs: jobs ?? view.jobs ?? [], jobsTrouble: trouble, chain: chain ?? view.chain,
	}),
	"watch-begun": (view, { at, seconds }) => ({
		...view,
		watch: { verb: view.verb, seconds: 0, started: NaN, heard: at, back: null, ...view.watch, since: view.watch?.since ?? at, until: at + 1e3 * seconds, on: true, found: "" },
	}),
	"screen-came": (view, { at, picture, guest, state }) => {
		const seen = view.seen && state && state !== "unknown" ? { ...view.seen, state, at } : view.seen;
		const { watch } = view;
		const found = guest === "answers" ? "guest" : state === "stopped" ? "stopped" : "";
		const next = watch && found ? { ...watch, on: false, until: at, found } : watch;
		return { ...view, seen, picture: picture ?? view.picture, watch: /** @type {Watch|null} */ (next) };
	},
	"watch-ended": (view, { at, found }) => {
		const { watch } = view;
		if (!watch) return view;
		const late = at - watch.until; // by the last look, or by a sleep
		const until = late > 0 && late < 10_000 ? watch.until : at;
		return { ...view, watch: { ...watch, on: false, until, found: watch.back && found === "nothing" ? "guest" : found } };
	},
	"look-refused": (view) => ({ ...view, mayLook: false }),
	nudged: (view, { at, words }) => ({ ...view, nudge: { words, at } }),
	"proven-heard": (view, { proven }) => ({ ...view, proven }),
};

/** @param {{by_hand?: string[]}} answer */
const byHand = ({ by_hand: lines = [] }) => lines.map((line) => `By hand: ${line}`);

/** An answer that ends a read or an act. @param {View} view  @param {any} event  @returns {View} */
function settled(view, { at, id, verb, answer, loud, clockOff }) {
	const changes = mutates(verb);
	let next = remember(view, { at, verb, answer, changes });
	if (changes) {
		next = { ...next, open: null, acting: false, sent: { ...next.sent, [id]: false } };
		if (answer.outcome === "done" && bringsUp(verb)) {
			const started = Date.parse(answer.started);
			next.watch = { verb, seconds: answer.seconds ?? 0, started, heard: at, back: null, since: at, until: at, on: false, found: "" };
		}
	} else next = { ...next, reading: "", waiting: Boolean(verb === "forensics" && answer.screen), watch: isNewer(view, verb, answer) ? null : hearGuest(view.watch, answer, at) };
	if (verb === "forensics" && answer.outcome === "done") next.lookedAt = at;
	// A check that failed is no news once a later one has succeeded.
	const mends = verb === "status" && view.verb === verb && answer.outcome === "done" && ["failed", "notSent"].includes(view.phase);
	if (!loud && !mends) return next;
	const [phase, more] = outcomeOf(verb, answer, { at, clockOff });
	const keptSince = changes ? { stages: next.stages } : {};
	return enter(next, at, phase, { ...more, ...keptSince, holder: answer.holder ?? null, offer: answer.anyway ?? "" });
}

const GAP_MS = 10_000; // between two checks: what was first heard after a longer one may have been there for as long

/** The watch after an answer that may tell the first heartbeat, which ends it. @param {Watch|null} watch  @param {any} answer  @param {number} at  @returns {Watch|null} */
function hearGuest(watch, { outcome, heartbeat }, at) {
	if (outcome !== "done" || !watch || watch.back || watch.found === "guest") return watch;
	const ms = Date.parse(heartbeat?.at) - watch.started;
	return ms >= 0 ? { ...watch, on: false, until: at, found: "guest", back: { ms, most: at - watch.heard > GAP_MS } } : { ...watch, heard: at };
}

/** Whether a read knows more than the watch after a start does. @param {View} view  @param {string} verb  @param {any} answer */
const isNewer = ({ seen }, verb, { outcome, last }) => outcome === "done" && (verb === "forensics" || seen?.last !== last);

/** What an answer says of the VM. @param {View} view  @param {any} event  @returns {View} */
function remember(view, { at, verb, answer, changes }) {
	const { outcome, reached, state, last, holder, verdict } = answer;
	const before = view.seen;
	const next = { ...view, warnings: answer.warnings ?? view.warnings };
	if (verb === "status" && outcome === "done") next.heartbeat = answer.heartbeat ?? null;
	next.beats ||= Boolean(next.heartbeat?.at);
	if (answer.by_hand?.length && !changes) next.byHand = answer.by_hand;
	const old = view.verdict;
	// A capture saw more than a glance.
	const better = verb === "status" && old?.from === "forensics" && old.state === state && old.last === last;
	if (outcome === "done" && !better && (verdict || !changes)) {
		next.verdict = verdict ? { ...verdict, state, last, from: verb, at } : null;
	}
	if (outcome !== "done" && verdict && changes && reached && isVerdict(verdict.code)) next.verdict = { ...verdict, state, last, from: verb, at };
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
	unlocked: (state) => ({ ...state, key: "given", unlocked: true }),
	locked: (state, { refused }) => ({ ...state, key: refused ? "refused" : "none", unlocked: false, views: {}, chats: {}, talks: null, proposals: {} }),
	"key-proved": (state) => (state.key === "given" ? { ...state, key: "proved" } : state),
	"clock-measured": (state, { off }) => (state.clockOff === off ? state : { ...state, clockOff: off }),
	"vm-chosen": (state, { name }) => ({ ...state, vm: name, unknownVm: "" }),
	"vm-unknown": (state, { name }) => ({ ...state, unknownVm: name }),
	"tab-chosen": (state, { tab }) => ({ ...state, tab }),
	"view-opened": (state, { name, kept }) => ({ ...state, views: { ...state.views, [name]: newView(name, kept) } }),
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

/** The VM that is shown, once the names are known: what was looked at without a name is the only one.
 * @param {State} state  @param {string} choice  @returns {State} */
function chooseFirst(state, choice) {
	const names = state.health.vms.map(({ name }) => name);
	if (state.vm || !names.length) return state;
	const vm = names.includes(choice) ? choice : names[0];
	const { "": nameless, ...views } = state.views;
	return { ...state, vm, views: nameless ? { ...views, [vm]: { ...nameless, vm } } : views };
}

/** The state after an event. An event of a VM that is not looked at any more changes nothing.
 * @param {State} state  @param {Event_} event  @returns {State} */
export function reduce(state, event) {
	const { type, at, vm: name = state.vm } = event;
	const view = Object.hasOwn(state.views, name) ? state.views[name] : null; // a VM may be called constructor
	const chat = Object.hasOwn(state.chats, name) ? state.chats[name] : null;
	let next = state;
	if (type in OF_VIEW) {
		if (view) next = { ...state, views: { ...state.views, [name]: OF_VIEW[type](view, event, state) } };
	} else if (type in OF_CHAT) {
		if (chat) next = { ...state, chats: { ...state.chats, [name]: OF_CHAT[type](chat, event) } };
	} else next = OF_STATE[type](state, event);
	return noteLock(next, at);
}

/** Since when the power buttons of the shown VM are locked: a lock is a hint, and ends after a minute. Not so where a link
 * named another VM.
 * @param {State} state  @param {number} at  @returns {State} */
function noteLock(state, at) {
	const view = state.views[state.vm];
	if (!view) return state;
	const locked = state.unlocked && !state.unknownVm && view.phase !== "running" && obstacle(state, view, "reset");
	const since = locked ? Math.min(view.lockedSince, at) : Infinity;
	if (since === view.lockedSince) return state;
	return { ...state, views: { ...state.views, [state.vm]: { ...view, lockedSince: since } } };
}

