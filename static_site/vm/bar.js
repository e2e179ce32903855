// The bar at the bottom: the outcome of the last press, its stages, and one button. Pure.

import { MINUTE, capital, clock, minute, sentence, span } from "../base/words.js";
import { FALLEN, failureShown, isPictured, mayAnyway, obstacle, phaseOf } from "../state/rules.js";
import { ANYWAY, DOING, STAGES, VERBS, labelOf, mutates } from "../state/verbs.js";

/** @typedef {import("../base/words.js").Tone} Tone */
/** @typedef {import("../state/shape.js").State} State */
/** @typedef {import("../state/shape.js").View} View */
/** A stage in the bar. `tone` is empty before the stage begins. @typedef {{label: string, tone: Tone|"", seconds: number|null, limit: number}} Step */
/** `brief` replaces the sentence if the bar has no room for it. The sentence then stands in the details.
 * @typedef {{phase: string, tone: Tone, icon: string, live?: boolean, word: string, sentence: string, brief?: string, timer: string,
 *   act: string, actLabel: string, steps: Step[], hint: string, lines: string[], cures: import("./headline.js").Cure[], url: string}} Bar */

const LOOK = { act: "look", actLabel: "Look again" };
const WAIT = { act: "stop-waiting", actLabel: "Stop waiting" };

/** @param {State} state  @param {View} view  @param {number} now  @returns {Bar} */
export function barOf(state, view, now) {
	const phase = phaseOf(state, view);
	const plain = { phase, live: false, timer: "", steps: stepsOf(view, now), hint: view.hint, lines: view.lines, cures: view.cures, url: view.url };
	const bar = { ...plain, ...PHASES[phase](state, view, now) };
	return view.nudge && now - view.nudge.at < 5_000 ? { ...bar, sentence: view.nudge.words, brief: "", timer: "" } : bar;
}

/** @type {Record<string, (state: State, view: View, now: number) => Omit<Bar, "phase"|"timer"|"steps"|"hint"|"lines"|"cures"|"url"> & Partial<Bar>>} */
const PHASES = {
	locked: ({ health }) => ({
		tone: "unknown", icon: "lock", word: "Locked", sentence: health.fails > 1 ? `Not answering since ${minute(health.downSince)}` : "Enter the signing key",
		act: health.fails > 1 ? "try-now" : "", actLabel: "Try now", hint: "", lines: [], cures: [], url: "",
	}),
	idle: (state, view, now) => idle(state, view, now),
	checking: (_, view, now) => ({
		tone: "busy", icon: "working", live: true, word: `${labelOf(view.verb)}…`, sentence: "Changes nothing", timer: span(now - view.since), ...WAIT,
	}),
	running: (_, view, now) => ({
		tone: "busy", icon: "working", live: true, word: stageWord(view), sentence: "", timer: timerOf(view, now), ...WAIT,
	}),
	done: (_, view, now) => (view.watch && view.watch.verb === view.verb ? watching(view, now) : {
		tone: view.verb === "forensics" ? "unknown" : "good", icon: view.verb === "forensics" ? "look" : "check",
		word: view.verb === "forensics" ? "Evidence taken" : `${labelOf(view.verb)} done`, sentence: view.sentence + tookOf(view), ...LOOK,
	}),
	notSent: (_, view) => ({ tone: "warn", icon: "cross", word: `${nounOf(view.verb)} not sent`, sentence: `Nothing was sent: ${view.sentence}`, brief: "Nothing was sent", ...LOOK }),
	refused: (state, view, now) => ({
		tone: "warn", icon: "cross", word: `${labelOf(view.verb)} refused`, sentence: `Nothing was changed: ${view.sentence}`, brief: "Nothing was changed",
		...(ANYWAY[view.offer] && (mayAnyway(view, now) || !obstacle(state, view, view.verb)) ? { act: "anyway", actLabel: `${labelOf(view.verb)} anyway…` } : LOOK),
	}),
	busy: (_, view) => (view.holder && view.seen && !view.seen.holder ? {
		tone: "warn", icon: "cross", word: `${labelOf(view.verb)} not done`, sentence: `Nothing was changed, because ${view.holder.by} was ${DOING[view.holder.verb] ?? "at"} it.`, brief: "Nothing was changed", ...LOOK,
	} : { tone: "busy", icon: "working", word: whose(view, view.holder), sentence: view.seen?.holder ? "Nothing was changed" : view.sentence, brief: "Nothing was changed", ...(view.holder ? { act: "watch", actLabel: "Watch" } : LOOK) }),
	failed: (_, view) => ({ tone: "bad", icon: "cross", word: `${nounOf(view.verb)} failed`, sentence: failureShown(view) ? `${farOf(view)}See the headline` : view.sentence, brief: "See the headline", ...LOOK }),
	unknown: (_, view) => (view.acting ? {
		tone: "unknown", icon: "unknown", live: true, word: "No answer", sentence: `The ${labelOf(view.verb).toLowerCase()} may have happened; asking the host…`, ...WAIT,
	} : { tone: "unknown", icon: "unknown", word: "No answer", sentence: view.sentence, act: "ask-again", actLabel: "Ask again" }),
	disconnected: ({ health }, _, now) => ({
		tone: "unknown", icon: "cross", live: true, word: "No connection", sentence: "", url: "",
		steps: [], timer: health.next > now ? `Trying again in ${Math.ceil((health.next - now) / 1000)} s` : "Trying…", act: "try-now", actLabel: "Try now",
		hint: "", lines: [], cures: [],
	}),
};

/** @param {string} verb  @returns {string} what the verb is about, in a word that fits the bar */
const nounOf = (verb) => capital(labelOf(verb).replace(/^(Check|Collect) /, ""));

/** Returns who holds the VM, which may be another tab of this device. @param {View} view  @param {import("../state/shape.js").Holder|null} holder */
const whose = ({ sent }, holder) => (holder && holder.job in sent ? "Your other tab is on it" : "Someone is on it");

/** @param {State} state  @param {View} view  @param {number} now */
function idle(state, view, now) {
	if (state.unknownVm) return { tone: /** @type {Tone} */ ("warn"), icon: "unknown", word: "No such VM", sentence: "Choose one under VMs", act: "", actLabel: "" };
	const { holder } = view.seen ?? {};
	if (holder) return { tone: /** @type {Tone} */ ("busy"), icon: "working", live: true, word: whose(view, holder), sentence: `${holder.by} since ${clock(Date.parse(holder.since) - state.clockOff)}`, act: "watch", actLabel: "Watch" };
	if (view.reading === "forensics") return { tone: /** @type {Tone} */ ("busy"), icon: "working", live: true, word: "Looking…", sentence: "Changes nothing", ...WAIT, act: "", actLabel: "" };
	const at = Math.max(view.seen?.at ?? 0, view.lookedAt);
	const word = at ? `${view.lookedAt >= (view.seen?.at ?? 0) - 60_000 && view.lookedAt ? "Looked" : "Checked"} ${clock(at)}` : "Not looked yet";
	return { tone: /** @type {Tone} */ ("unknown"), icon: "look", word, sentence: view.sentence, ...LOOK };
}

/** @param {View} view  @param {number} now */
function watching(view, now) {
	const watch = /** @type {import("../state/shape.js").Watch} */ (view.watch);
	const done = `${labelOf(view.verb)} done`;
	const more = { act: "keep-looking", actLabel: "Keep looking" };
	const found = {
		guest: { tone: "good", icon: "check", word: done, sentence: `Took ${span(1e3 * watch.seconds)}, ${watch.back ? returnOf(watch) : `back after ${span(watch.until - watch.since)}`}`, ...more },
		nothing: view.beats
			? { tone: "warn", icon: "hung", word: done, sentence: `No sign of life after ${span(watch.until - watch.since)}${isPictured(view) ? ": look at the picture" : ", and no picture"}`, ...more }
			: { tone: "unknown", icon: "look", word: done, sentence: `${sentence(view.heartbeat?.says ?? "the guest's heartbeat is not known")} ${isPictured(view) ? "Look at the picture" : "There is no picture either"}`, ...more },
		unseen: { tone: "good", icon: "check", word: done, sentence: `at ${clock(watch.since)}; could not see if the guest is back`, ...LOOK },
		stopped: { tone: "warn", icon: "stopped", word: done, sentence: "But the VM is off again", ...LOOK },
		fallen: { tone: "bad", icon: "hung", word: done, sentence: `But ${fallOf(watch)}`, ...LOOK },
		"": { tone: "good", icon: "check", word: done, sentence: `at ${clock(watch.since)}`, ...LOOK },
	}[watch.found];
	if (!watch.on) return /** @type {any} */ (found);
	const so = `${Math.round((now - watch.since) / 1000)} s of ${Math.round((watch.until - watch.since) / 1000)} s`;
	return { tone: /** @type {Tone} */ ("busy"), icon: "working", live: true, word: done, sentence: "", timer: so, act: "stop-looking", actLabel: "Stop looking" };
}

/** Returns when the guest's kernel answered first, by the host's clock. @param {import("../state/shape.js").Watch} watch */
export const returnOf = ({ back, verb }) => (back ? `the guest’s kernel answers, ${back.most ? "at most " : ""}${span(back.ms)} after the ${labelOf(verb).toLowerCase()}` : "");

/** Returns in which state a guest stands still again, and since when. @param {import("../state/shape.js").Watch} watch */
export const fallOf = ({ fell, was, since, until, verb }) => `${FALLEN[fell]}${fell === was ? " again" : ""}, ${span(until - since)} after the ${labelOf(verb).toLowerCase()}`;

/** @param {View} view */
function farOf(view) {
	const stage = STAGES[passed(view).at(-1)?.name ?? ""]?.label.toLowerCase();
	return stage ? `At ${stage}. ` : "";
}

/** @param {View} view */
const tookOf = (view) => (mutates(view.verb) && view.stages.length ? `, after ${span(view.since - view.stages[0].at)}` : "");

/** Returns the stages that the verb has reported, each once and in order. If the verb goes back a step, that step begins again.
 * @param {View} view  @returns {View["stages"]} */
function passed({ verb, stages }) {
	const order = VERBS[verb]?.stages ?? [];
	/** @type {View["stages"]} */
	let found = [];
	for (const stage of stages) {
		const place = order.indexOf(stage.name);
		const isOfStop = stage.name === "verify" && found.at(-1)?.name === "stop" && order.includes("start"); // this stage verifies the stop, and belongs to it
		if (place < 0 || isOfStop) continue;
		found = found.filter(({ name }) => order.indexOf(name) <= place);
		if (found.at(-1)?.name !== stage.name) found.push(stage);
	}
	return found;
}

/** @param {View} view */
function stageWord(view) {
	const stage = STAGES[passed(view).at(-1)?.name ?? ""]?.label.toLowerCase();
	return `${labelOf(view.verb)}${stage ? `: ${stage}` : view.stages.length ? " sent" : ": sending"}`;
}

/** @param {View} view  @param {number} now */
function timerOf(view, now) {
	const stage = passed(view).at(-1);
	if (!stage) return span(now - view.since);
	const seconds = Math.round((now - stage.at) / 1000);
	const { limit } = STAGES[stage.name];
	return seconds > limit ? `${seconds} s, longer than usual` : `${seconds} s, usually up to ${limit} s`;
}

/** Returns the stages of the last power verb, with their times. @param {View} view  @param {number} now  @returns {Step[]} */
function stepsOf(view, now) {
	const names = VERBS[view.verb]?.stages;
	if (!names || !view.stages.length || view.phase === "idle") return [];
	const came = passed(view);
	const last = came.at(-1)?.name;
	const over = view.phase !== "running" && !view.open;
	const failed = over && view.phase !== "done";
	if (failed && !came.length) return []; // it ended before its first step
	/** @param {string} name  @returns {Step} */
	const step = (name) => {
		const n = came.findIndex((stage) => stage.name === name);
		const { label, limit } = STAGES[name];
		if (n < 0) return { label, tone: view.phase === "done" ? "good" : "", seconds: null, limit };
		const end = came[n + 1]?.at ?? (over ? view.since : now);
		const tone = name !== last || view.phase === "done" ? "good" : failed ? "bad" : "busy";
		return { label, tone, seconds: Math.round((end - came[n].at) / 1000), limit };
	};
	const steps = names.map(step);
	const { watch } = view;
	if (!watch || view.phase !== "done") return steps; // after the last stage, its place shows the guest's return
	/** @type {Record<string, Tone|"">} */
	const tones = { guest: "good", nothing: view.beats ? "warn" : "", stopped: "warn", fallen: "bad", unseen: "", "": watch.on ? "busy" : "" };
	return [...steps.slice(0, -1), { label: STAGES.back.label, tone: tones[watch.found], seconds: watch.on ? Math.round((now - watch.since) / 1000) : null, limit: STAGES.back.limit }];
}

/** Returns the bar below the list, which says when the page last looked, and how much it knows. @param {State} state  @param {number} now  @returns {Bar} */
export function lookOfAll({ health: { vms }, views }, now) {
	const times = vms.map(({ name }) => (Object.hasOwn(views, name) && views[name].seen?.at) || 0);
	const at = times.reduce((most, each) => Math.max(most, each), 0);
	const fresh = times.filter((each) => each && Math.abs(now - each) <= MINUTE).length;
	return {
		phase: "idle", tone: "unknown", icon: "look", word: at ? `Looked ${clock(at)}` : "Not looked yet",
		sentence: `${fresh === vms.length ? "All" : `${fresh} of`} ${vms.length} known`,
		act: "look-all", actLabel: "Look again", timer: "", steps: [], hint: "", lines: [], cures: [], url: "",
	};
}
