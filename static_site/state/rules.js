// Decides which buttons may be pressed, what an answer means, and why. Pure.

import { MINUTE, capital, clock, ended, minute, sentence, span, troubleOf } from "../base/words.js";
import { newView } from "./shape.js";
import { DOING, VERBS, labelOf, mutates } from "./verbs.js";

/** @typedef {import("./shape.js").State} State */
/** @typedef {import("./shape.js").View} View */
/** @typedef {import("./shape.js").Holder} Holder */
/** @typedef {import("./shape.js").Job} Job */
/** Where a person is on the page. @typedef {{vm: string, tab: string}} Place */

const LOOK_EVERY_MS = 15_000;

/** Whether the VM has no verb under way and no open outcome. @param {View} view */
export const resting = (view) => !view.open && !["checking", "running", "unknown"].includes(view.phase);

/** Returns the phase that the page shows. @param {State} state  @param {View} view */
export function phaseOf(state, view) {
	if (!state.unlocked) return "locked";
	return isAway(state) && resting(view) ? "disconnected" : view.phase;
}

/** Whether nothing answers at this page's address. @param {State} state */
export const isAway = ({ health }) => health.fails > 1 || ((health.slow || health.fails > 0) && !health.answer);

/** @typedef {import("./shape.js").VmHealth} VmHealth */
/** @type {WeakMap<VmHealth[], Map<string, VmHealth>>} an index, because a list of a thousand VMs looks up each of them */
const byName = new WeakMap();

/** @param {Pick<State, "vm"|"health">} state  @param {string} name */
export function vmHealth({ vm, health: { vms } }, name = vm) {
	const known = byName.get(vms) ?? new Map(vms.map((each) => [each.name, each]));
	byName.set(vms, known);
	return known.get(name);
}

/** @type {Map<string, View>} */
const blanks = new Map();

/** Returns what is known of a VM, even if the page has not looked at it. @param {State} state  @param {string} name  @returns {View} */
export function knownOf({ views }, name) {
	if (Object.hasOwn(views, name)) return views[name];
	const blank = blanks.get(name) ?? newView(name);
	blanks.set(name, blank);
	return blank;
}

/** @param {State} state  @param {string} name */
export function fullName(state, name = state.vm) {
	const vmid = vmHealth(state, name)?.vmid;
	return vmid ? `${name} (VM ${vmid})` : name || "the VM";
}

const NAME_CHARS = 40;

/** Returns Proxmox's name of the VM, cut, if it is not the VM's name here. @param {View} view */
export const otherName = ({ vm, named }) => (named === vm ? "" : named.length > NAME_CHARS ? `${named.slice(0, NAME_CHARS)}…` : named);

/** Returns the code of the trouble with the connection to the VM's host, or an empty text. @param {State} state  @param {View} view */
export function proxmoxTrouble(state, view) {
	const { health } = state;
	const code = health.fails < 2 && health.answer && vmHealth(state, view.vm)?.proxmox;
	const newer = (view.seen?.at ?? 0) > health.at;
	return !code || newer || ["answering", "agent-outdated", "not-checked", "elsewhere"].includes(code) ? "" : code; // if it is elsewhere, its status says where
}

/** @param {State} state */
export const chatDown = ({ health }) => health.answer?.chat?.replace(/^(on|none)$/, "") ?? "";

/** Returns a sentence about who holds the VM. @param {Holder} holder  @param {number} clockOff */
export function holding({ by, verb, since, stage, deadline }, clockOff) {
	const at = Date.parse(since) - clockOff;
	const until = clock(at + 1e3 * deadline);
	return `${by} has been ${DOING[verb] ?? `at it (${verb})`} it since ${clock(at)}; the job ends by ${until}${stage ? ` (stage: ${stage})` : ""}.`;
}

/** Returns why a verb can't be pressed now, or an empty text. @param {State} state  @param {View} view  @param {string} verb */
export function obstacle(state, view, verb) {
	const phase = phaseOf(state, view);
	if (phase === "locked") return "Enter the signing key first.";
	if (state.unknownVm) return `There is no VM ${state.unknownVm} here. Choose one under VMs.`;
	if (phase === "checking" || (view.reading && view.open && !mutates(verb))) return "Wait for the answer.";
	if (phase === "running") return `${labelOf(view.verb)} is under way.`;
	if (verb === "status") return "";
	if (phase === "disconnected") return "Breakglass is not answering.";
	if (view.open && mutates(verb)) return `It is not known whether the ${labelOf(view.open.verb).toLowerCase()} happened.`;
	if (view.seen?.holder && mutates(verb)) return holding(view.seen.holder, state.clockOff);
	const code = proxmoxTrouble(state, view);
	return code && `Proxmox is out of reach: ${troubleOf(code)}.`;
}

/** @type {Record<string, string>} by verb, the state in which that verb makes no sense */
const POINTLESS = { reset: "stopped", start: "running", stop: "stopped" };

/** @param {View} view  @param {string} verb */
export const pointless = ({ seen }, verb) => (seen && POINTLESS[verb] === seen.state ? `It is ${seen.state === "stopped" ? "off" : seen.state}` : "");

/** Whether locked buttons may be pressed anyway. After a minute they may, because a person may know better than the page. @param {View} view  @param {number} now */
export const mayAnyway = (view, now) => now - view.lockedSince >= MINUTE;

/** Notes since when the power buttons of the shown VM are locked. The lock ends after a minute, except if a link named
 * another VM.
 * @param {State} state  @param {number} at  @returns {State} */
export function noteLock(state, at) {
	const view = state.views[state.vm];
	if (!view) return state;
	const locked = state.unlocked && !state.unknownVm && view.phase !== "running" && obstacle(state, view, "reset");
	const since = locked ? Math.min(view.lockedSince, at) : Infinity;
	if (since === view.lockedSince) return state;
	return { ...state, views: { ...state.views, [state.vm]: { ...view, lockedSince: since } } };
}

/** Returns the verdict, if it still describes the present state. @param {View} view */
export const verdictOf = ({ seen, verdict }) => (seen && verdict && verdict.last === seen.last && verdict.state === seen.state ? verdict : null);

/** Whether there is a picture of the console since the last verb that changed power. @param {View} view */
export const isPictured = ({ seen, picture }) => Boolean(picture && picture.last === seen?.last);

/** Returns the last failure, if no other verb has run after it. After a reload, only the history of a VM that is still off has it. @param {View} view  @returns {import("./shape.js").Failed|null} */
export function failureOf({ failure, seen, jobs }) {
	if (failure && seen?.last === failure.last) return failure;
	const isOff = seen?.state === "stopped";
	const job = isOff && jobs?.find(({ id, outcome, verb, started }) => id === seen.last && outcome === "failed" && mutates(verb) && seen.at - Date.parse(started) < 60 * MINUTE);
	return job ? failedOf(job.verb, { ...job, last: job.id }) : null;
}

/** Returns what stays of an answer about a failure. @param {string} verb  @param {any} answer  @returns {import("./shape.js").Failed} */
export const failedOf = (verb, answer) => ({ verb, cause: causeOf(answer), last: answer.last, lines: answer.verdict?.evidence ?? [], cures: curesOf(answer) });

/** Returns the last failure, unless the VM has a process and evidence says more about it. @param {View} view */
export const failureShown = (view) => (view.seen?.state === "stopped" || verdictOf(view)?.from !== "forensics" ? failureOf(view) : null);

/** The words for the states in which a guest can stand still after its start or reset. @type {Record<string, string>} */
export const FALLEN = {
	__proto__: /** @type {any} */ (null),
	"guest-panicked": "it panicked",
	"io-error": "a disk request failed",
	"internal-error": "QEMU met an error",
	watchdog: "its watchdog ran out",
	paused: "it was paused",
};

/** Whether the guest came up, then stopped, and still stands still. @param {View} view */
export const hasFallen = ({ watch, seen }) => watch?.found === "fallen" && Boolean(FALLEN[seen?.state ?? ""]);

/** Returns the advised verb, if the advice still fits the present state and the page has that verb. A verb that just failed is not
 * advised again, and no verb is advised where a command on the host loses less. @param {View} view */
export function adviceOf(view) {
	const verdict = verdictOf(view);
	const advice = verdict?.advice ?? "";
	const failed = failureOf(view)?.verb;
	const isSpent = hasFallen(view) || advice === failed || (advice === "start" && failed === "cycle");
	return !view.open && !view.seen?.holder && !isSpent && !verdict?.fix && VERBS[advice] ? advice : "";
}

// The verdicts that a capture can reach on a VM that a status calls running.
const OF_RUNNING = /^(healthy|heartbeat|guest|backup|disk|storage)/;

/** Returns the newest evidence in the history, if it is younger than a minute and describes the state that a status has just seen.
 * The history does not name the state or the process, so no power job may have ended later, and the verdict must fit the state.
 * @param {View} view  @param {number} now by the host's clock  @returns {import("./shape.js").Job|null} */
export function recentEvidence({ seen, verdict, jobs }, now) {
	const newest = jobs?.find((job) => job.verb === "forensics" && job.outcome !== "failed");
	const code = newest?.verdict?.code ?? "";
	if (!newest || newest.outcome !== "done" || Math.abs(now - Date.parse(newest.started)) >= MINUTE) return null;
	const began = Date.parse(newest.started);
	const isBefore = jobs?.some((job) => job.verb !== "forensics" && Date.parse(job.started) + 1e3 * (job.seconds ?? 0) >= began);
	const fits = seen?.state === "running" ? OF_RUNNING.test(code) : code === verdict?.code;
	return fits && !isBefore ? newest : null;
}

/** Whether a check is due, on waking and every 15 s, even while an outcome is not known. @param {State} state  @param {View} view  @param {number} now */
export const isCheckDue = (state, view, now) => state.unlocked && !view.acting && !view.reading && view.phase !== "checking"
	&& !isAway(state) && Math.abs(now - view.triedAt) >= LOOK_EVERY_MS;

/** @param {any} answer */
export function reasonOf({ message, verdict, stderr }) {
	const reason = message || verdict?.sentence || stderr?.trim() || "no reason was given";
	return reason.replace(/[;,] nothing was (sent|changed)$/, "");
}

/** Returns why a verb failed, without the words that the headline shows already. @param {any} answer  @returns {string} */
export const causeOf = (answer) => reasonOf(answer).replace(/^the VM was stopped and could not be started: (qm start failed: )?/, "");

/** Returns the commands that may help after a failure: first the cure, then the commands that do the verb's work by hand. @param {any} answer */
export const curesOf = ({ verdict, by_hand: lines = [] }) => [...verdict?.fix ? [verdict.fix] : [], ...lines.map((/** @type {string} */ command) => ({ place: "", command }))];

/** Returns the phase after an answer, and the words for that phase. @param {string} verb  @param {any} answer  @param {{at: number, clockOff: number}} when
 * @returns {[string, Partial<View>]} */
export function outcomeOf(verb, answer, { at, clockOff }) {
	const { outcome, code, reached, verdict, holder, stage, url } = answer;
	const hint = code === "forbidden" && answer.hint ? `The person who runs Breakglass can ${ended(answer.hint)}` : answer.hint;
	if (outcome === "done" && verb === "status") return ["idle", {}]; // the headline shows the result
	if (outcome === "done") return ["done", { sentence: `at ${clock(at)}` }];
	if (outcome === "busy" && holder) return ["busy", { sentence: `${holding(holder, clockOff)} Nothing was changed.` }];
	if (outcome === "unknown" && !mutates(verb)) return ["failed", { sentence: "No answer came back from the host.", hint: "Nothing was changed. Look again." }];
	const phase = reached === false ? "notSent" : ["busy", "refused"].includes(outcome) ? outcome : "failed";
	const advice = verdict?.advice && verdict.advice !== "status" ? `Advice: ${labelOf(verdict.advice)}.` : ""; // the bar has a button to look again
	const lines = (verdict?.evidence ?? []).filter((/** @type {string} */ line) => !line.startsWith("last: ")); // an id tells a person nothing
	const reason = reasonOf(answer);
	if (phase === "notSent") return [phase, { sentence: ended(reason), hint: capital(hint ?? lines[0] ?? ""), url: url ?? "" }];
	if (phase === "refused") return [phase, { sentence: ended(reason), hint: hint ?? advice, lines, cures: curesOf({ verdict }) }];
	if (outcome !== "failed") return [phase, { sentence: sentence(reason), hint: hint ?? advice, lines }];
	if (mutates(verb)) return [phase, { sentence: sentence(reason) }]; // the headline shows the other facts
	const far = stage ? `The verb reached the stage ${stage}.` : "";
	const commands = (answer.by_hand ?? []).map((/** @type {string} */ line) => `By hand: ${line}`);
	return [phase, { sentence: sentence(reason), hint: [far, advice].filter(Boolean).join(" "), lines: [...lines, ...commands] }];
}

const OPINION_MS = 12 * 3600_000;

/** Returns the newest job with a second opinion, for half a day and as long as no verb came after it. @param {View} view  @param {number} now */
export function opinionOf({ jobs }, now) {
	const job = jobs?.find(({ verb, opinion }) => opinion || mutates(verb));
	return job?.opinion && now - Date.parse(job.started) < OPINION_MS ? job : null;
}

/** Returns an opinion as the words of a model, which has read the guest's. @param {Job} job  @param {number} clockOff */
export const opinionWords = ({ opinion }, clockOff) => (opinion ? `Claude, ${minute(Date.parse(opinion.at) - clockOff)}: ${String(opinion.text).slice(0, 300)}` : "");

/** Returns lines that no other part of the page shows: trouble, and a second opinion. @param {State} state  @param {View} view  @param {number} [now]  @returns {string[]} */
export function notesOf({ health, clockOff, newPage }, view, now = 0) {
	const opinion = opinionOf(view, now);
	const config = health.answer?.config?.replace(/^ok$/, "").replace(/20\S+Z/, (/** @type {string} */ at) => clock(Date.parse(at) - clockOff));
	const off = Math.abs(clockOff);
	return [
		opinion ? opinionWords(opinion, clockOff) : "",
		view.note,
		view.trouble,
		off >= MINUTE ? `This device’s clock is ${span(off)} ${clockOff > 0 ? "behind" : "ahead"}. The times here are those of the host.` : "",
		...view.warnings,
		config ? `The configuration of Breakglass is ${config}. Its log says what to correct.` : "",
		newPage ? "This page is from before an upgrade. The new page is stored, and it opens next time." : "",
	].filter(Boolean);
}

// --- places, which the browser's Back and Forward lead through ---

/** @param {Pick<State, "vm"|"tab">} state  @returns {Place} */
export const placeOf = ({ vm, tab }) => ({ vm, tab });

/** @param {Place} place  @param {Place|null} other */
export const isSamePlace = (place, other) => place.vm === other?.vm && place.tab === other.tab;

/** Returns the fragment of the address, which names the VM if there are several, or undefined if there is only one VM.
 * @param {Pick<State, "vm"|"tab"|"health">} state */
export const addressOf = ({ vm, tab, health }) => (health.vms.length < 2 ? undefined : tab === "list" ? "" : `#vm=${vm}`);
