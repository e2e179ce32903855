// The headline says what is wrong in at most four words, and has a tone. Pure.
//
// The tone is the worst of verdict, age, reach and what is under way, so it is never green while anything is known to be wrong.

import { MINUTE, capital, clock, detourOf, minute, phraseOf, phraseOfState, sentence, span, stateWord, troubleOf } from "../base/words.js";
import { failureShown, hasFallen, isAway, isPictured, obstacle, proxmoxTrouble, verdictOf, vmHealth } from "../state/rules.js";
import { DOING, VERBS, labelOf } from "../state/verbs.js";
import { fallOf, returnOf } from "./bar.js";

/** @typedef {import("../base/words.js").Tone} Tone */
/** @typedef {import("../state/shape.js").State} State */
/** @typedef {import("../state/shape.js").View} View */
/** `cures`: commands on a host, each with the place where to run it.
 * @typedef {{words: string, tone: Tone, icon: string, second: string, why: string, live?: boolean, cures?: Cure[]}} Headline */
/** @typedef {{place: string, command: string}} Cure */

const GOOD_FOR_MS = 2 * MINUTE;

/** Whether a look is older than `ms`. If the clock was set back, the difference counts all the same. @param {number} now  @param {number} at  @param {number} ms */
const isOld = (now, at, ms) => Math.abs(now - at) > ms;

/** @param {State} state  @param {View} view  @param {number} now  @returns {Headline} */
export function headlineOf(state, view, now) {
	const found = locked(state) ?? strayed(state) ?? underWay(state, view, now) ?? away(state, view) ?? watched(view, now) ?? known(state, view, now);
	return { ...found, why: found.why || waitsFor(state, view) };
}

/** Returns why the power buttons are locked, so that the page gives this reason only once. @param {State} state  @param {View} view */
function waitsFor(state, view) {
	return state.unlocked ? obstacle(state, view, "reset") : "";
}

/** @param {State} state  @returns {Headline|null} */
function locked(state) {
	if (state.unlocked) return null;
	if (state.health.fails > 1) return lost(state);
	if (state.key === "sought") return { words: "Opening…", tone: "unknown", icon: "lock", second: "Looking for this device’s key", why: "" };
	if (state.key === "revoked") {
		const second = state.leftOpen ? `The ${labelOf(state.leftOpen).toLowerCase()} may have happened` : "Breakglass refuses this key now";
		return { words: "Key no longer valid", tone: "warn", icon: "lock", second, why: "Use the commands under “By hand”, and ask for a new pairing link." };
	}
	return { words: "Locked", tone: "unknown", icon: "lock", second: "This page needs your signing key", why: "" };
}

/** Returns the headline for a link to a VM that does not exist here. The page shows no other VM in its place. @param {State} state  @returns {Headline|null} */
function strayed({ unknownVm }) {
	return unknownVm ? { words: "No such VM", tone: "warn", icon: "unknown", second: `The link says ${unknownVm}`, why: "" } : null;
}

/** @param {State} state  @returns {Headline} */
function lost({ health }) {
	const since = health.downSince ? `Not answering since ${minute(health.downSince)}` : "No answer yet";
	return { words: "No connection", tone: "unknown", icon: "unknown", second: since, why: "The VM may be well. The commands under “By hand” work without Breakglass." };
}

/** Returns what the page can promise. Before the host's first line, it promises nothing. @param {View} view */
const promiseOf = (view) => (view.stages.length ? `It continues on the host, even if this device sleeps${endOf(view)}.` : "Sending. Keep this page open.");

/** Returns the latest time at which the host ends the job. @param {View} view */
const endOf = ({ deadline }) => (deadline ? `; it ends by ${clock(deadline.started + 1e3 * deadline.seconds)}` : "");

/** @param {State} state  @param {View} view  @param {number} now  @returns {Headline|null} */
function underWay(state, view, now) {
	const was = view.verdict ? `Was: ${phraseOf(view.verdict.code).words}` : `QEMU: was ${stateWord(view.seen?.state ?? "unknown")}`;
	if (view.phase === "running") {
		const doing = capital(DOING[view.verb] ?? view.verb);
		return { words: `${doing}…`, tone: "busy", icon: "working", live: true, second: was, why: promiseOf(view) };
	}
	if (view.open || view.phase === "unknown") {
		const verb = labelOf(view.open?.verb ?? view.verb).toLowerCase();
		return { words: "Outcome not known", tone: "unknown", icon: "unknown", second: `The ${verb} may have happened`, why: `Asking again is safe, because the ${verb} runs at most once.` };
	}
	const holder = view.seen?.holder;
	if (!holder || isAway(state) || proxmoxTrouble(state, view)) return null;
	const since = Date.parse(holder.since) - state.clockOff;
	const doing = capital(DOING[holder.verb] ?? "held");
	return { words: `${doing}…`, tone: "busy", icon: "working", live: true, second: `By ${holder.by} for ${span(now - since)}`, why: "" };
}

/** @type {Record<string, string>} headlines for trouble with the connection, other than a host that does not answer */
const HINDRANCES = {
	__proto__: /** @type {any} */ (null),
	"host-key-differs": "Host key changed",
	disabled: "Set up wrongly",
	"key-not-accepted": "Key not accepted",
	"not-allowed": "Key not allowed",
};

/** @param {State} state  @param {View} view  @returns {Headline|null} */
function away(state, view) {
	if (isAway(state)) return lost(state);
	const code = proxmoxTrouble(state, view);
	if (!code) return null;
	const since = vmHealth(state, view.vm)?.since;
	const words = HINDRANCES[code] ?? "Host unreachable";
	const last = view.seen ? ` · was ${stateWord(view.seen.state)}` : "";
	return {
		words, tone: "unknown", icon: "unknown", why: `${capital(troubleOf(code))}. ${detourOf(code)}`,
		second: `${since ? `Since ${minute(Date.parse(since) - state.clockOff)}` : "Not known"}${last}`,
	};
}

const HOST_KNOWS = ["io-error", "paused"]; // in these states, the host itself says what to do before another start

/** Returns what may tell a person why the guest stands still. @param {View} view */
function lookOf(view) {
	const shown = [isPictured(view) && "the picture", view.words && "the last words"].filter(Boolean).join(" and ");
	return shown ? `Look at ${shown}` : "Find out why";
}

/** Returns the headline of the watch after a start, unless the page knows something newer. @param {View} view  @param {number} now  @returns {Headline|null} */
function watched(view, now) {
	const { watch, seen, trouble, phase, beats } = view;
	if (watch && seen && hasFallen(view) && !isOld(now, seen.at, MINUTE)) return { ...phraseOfState(seen.state), tone: "bad", second: `QEMU: ${stateWord(seen.state)} · looked ${span(now - seen.at)} ago`, why: `${capital(fallOf(watch))}. ${HOST_KNOWS.includes(watch.fell) ? whyOf(verdictOf(view)) : `${lookOf(view)} before another try.`}`, cures: curesOf(verdictOf(view)) };
	if (!watch || (seen && seen.state !== "running")) return null;
	const qemu = `QEMU: ${stateWord(seen?.state ?? "unknown")}`;
	if (watch.on) return { words: "Coming back…", tone: "busy", icon: "working", live: true, second: qemu, why: "Wait for the guest." };
	if (!seen || trouble || phase === "failed" || isOld(now, seen.at, MINUTE)) return null;
	const after = `${span(watch.until - watch.since)} after its ${VERBS[watch.verb]?.label.toLowerCase() ?? "start"}`;
	const guest = watch.found === "guest" && !isOld(now, watch.until, GOOD_FOR_MS);
	if (guest && watch.back) return { words: "Back: kernel answers", tone: "good", icon: "running", second: `${qemu} · ${clock(watch.until)}`, why: `${capital(returnOf(watch))}. Try what you came for.` };
	if (guest) return { words: "Back: guest answers", tone: "good", icon: "running", second: `${clock(watch.until)}, ${after}`, why: "The guest agent answers. Try what you came for." };
	if (watch.found === "nothing" && beats) return { words: "No sign of life", tone: "warn", icon: "hung", second: qemu, why: `The guest’s kernel answered before, but not ${after}. ${isPictured(view) ? "Look at the picture: the" : "The"} guest may still boot.` };
	return null;
}

/** @param {State} state  @param {View} view  @param {number} now  @returns {Headline} */
function known(state, view, now) {
	const { seen } = view;
	if (!seen) return unseen(view);
	const verdict = verdictOf(view);
	const phrase = verdict ? phraseOf(verdict.code) : phraseOfState(seen.state);
	const looked = Math.max(seen.at, verdict?.from === "forensics" ? verdict.at : 0);
	const qemu = `QEMU: ${stateWord(seen.state)}`;
	const second = `${qemu} · looked ${span(now - looked)} ago`;
	if (isOld(now, seen.at, MINUTE)) return { words: "Out of date", tone: "unknown", icon: "unknown", second: `Was: ${phrase.words}, ${span(now - seen.at)} ago`, why: view.trouble };
	const failure = failureShown(view);
	const of = { tone: /** @type {Tone} */ ("bad"), second, why: sentence(failure?.cause), cures: failure?.cures };
	if (failure && seen.state === "stopped") return { ...of, words: `Off: ${failure.verb === "cycle" ? "start" : failure.verb} failed`, icon: "stopped" };
	if (failure) return { ...of, words: `${labelOf(failure.verb)} failed`, icon: "hung" };
	if (verdict?.code === "qemu-running" || (!verdict && seen.state === "running")) return glanced(view, qemu, second);
	const doubted = view.trouble || (view.phase === "failed" ? view.sentence : "");
	if (phrase.tone === "good" && verdict && (doubted || isOld(now, verdict.at, GOOD_FOR_MS))) {
		return { ...phrase, words: `Well ${span(now - verdict.at)} ago`, tone: "unknown", second, why: doubted || "The VM is running. Look again to find out more." };
	}
	return { ...phrase, second, why: whyOf(verdict), cures: curesOf(verdict) };
}

/** Returns the words of the host's verdict. @param {import("../state/shape.js").HostVerdict|null} verdict */
const whyOf = (verdict) => sentence(verdict?.why || verdict?.sentence);
/** @param {import("../state/shape.js").HostVerdict|null} verdict  @returns {Cure[]} */
const curesOf = (verdict) => (verdict?.fix ? [verdict.fix] : []);

/** Returns the headline of a VM that runs, but whose guest was not examined. @param {View} view  @param {string} qemu  @param {string} second  @returns {Headline} */
function glanced(view, qemu, second) {
	if (view.reading === "forensics" || view.looking) return { words: "Looking closer…", tone: "busy", icon: "working", live: true, second: qemu, why: "" };
	const found = verdictOf(view);
	return { ...phraseOf("qemu-running"), second, why: whyOf(found) || "The VM is running. Collect evidence to see how the guest is doing.", cures: curesOf(found) };
}

/** @param {View} view  @returns {Headline} */
function unseen(view) {
	if (view.reading || view.phase === "checking" || (view.triedAt && !view.trouble)) return { words: "Looking…", tone: "busy", icon: "working", live: true, second: "Asking the host", why: "" };
	return { words: "Not known", tone: "unknown", icon: "unknown", second: "Not looked at yet", why: view.trouble };
}
