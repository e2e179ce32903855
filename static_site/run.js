// The one function that runs a verb. An answer that did not arrive is "unknown": the same id is sent again.

import { poll } from "./health.js";
import { refuseKey } from "./key.js";
import { heard, lately, showPicture } from "./lately.js";
import { newId, post } from "./send.js";
import { BUTTONS, changed, enter, fullName, here, holding, labelOf, mayAnyway, me, mutates, obstacle, pointless, store } from "./state.js";
import { $, age, clock, sleep, stateOf, text } from "./words.js";

const RESEND_MS = 60_000;
const PHASE_OF = { done: "done", rejected: "notSent", unreached: "notSent", busy: "busy", refused: "refused" };

// One id and one body for good: however often it is sent, the host acts once.
export function newJob(view, verb, { id = newId(), ...more } = {}) {
	const body = { verb, vm: view.vm || undefined, ...more };
	if (mutates(verb) && view.seen) {
		if (view.seen.state !== "unknown") body.if_state = view.seen.state;
		body.if_last = view.seen.last ?? undefined;
	}
	return { id, verb, body: JSON.stringify(body), quiet: verb === "history" };
}

const ARMED_MS = 400; // the second press of a double click is no answer
let decide = () => {};
let arming;

// The only way to a job that changes power: Esc, Enter and Back leave things as they are. Returns the job or null.
async function confirmed(view, job) {
	const { danger, consequence } = BUTTONS[job.verb].dataset;
	const label = labelOf(job.verb);
	const why = obstacle(view, job.verb);
	const { seen, note } = view;
	const was = seen ? `It was ${stateOf(seen.state)[2].toLowerCase()} ${age(seen.at)} ago, at ${clock(seen.at)}.` : "Its state is not known.";
	const anyway = why || pointless(view, job.verb) ? " anyway" : "";
	text({
		"confirm-title": `${label} ${fullName()}${anyway}?`,
		"confirm-text": consequence,
		"confirm-seen": [why, was, note].filter(Boolean).join(" "),
		keep: { running: "Keep it running", stopped: "Keep it stopped" }[seen?.state] ?? "Leave it as it is",
		yes: `${label} ${me.vm || "the VM"}${anyway}`,
	});
	$("yes").classList.toggle("danger", danger !== undefined);
	decide(false);
	clearTimeout(arming);
	$("yes").ariaDisabled = "true";
	arming = setTimeout(() => { $("yes").ariaDisabled = "false"; }, ARMED_MS);
	$("confirm").showModal();
	const yes = await new Promise((resolve) => { decide = resolve; });
	$("confirm").close();
	job.until = Date.now() + 60_000;
	return yes ? job : null;
}

$("keep").addEventListener("click", () => decide(false));
$("yes").addEventListener("click", ({ isTrusted }) => {
	if (isTrusted && $("yes").ariaDisabled === "false") decide(true);
});
$("confirm").addEventListener("close", () => $("confirm").open || decide(false)); // Esc, Back

// What changes power leaves only with a job that `confirmed` gave, now or earlier.
export async function run(verb, { again = null, quiet = false, proposal = {} } = {}) {
	const view = here();
	if (!me.key || $("confirm").open) return;
	if (quiet ? view.reading : !again && obstacle(view, verb) && !mayAnyway(view)) return;
	const fresh = again ?? newJob(view, verb, proposal);
	const job = again || !mutates(verb) ? fresh : await confirmed(view, fresh);
	if (!job) return;
	view.reading?.abort();
	view.reading = null;
	const slot = mutates(verb) ? "acting" : "reading";
	view[slot]?.abort();
	const flight = (view[slot] = new AbortController());
	job.quiet = quiet;
	await (mutates(verb) ? act(view, job, flight) : look(view, job, flight));
	if (view[slot] === flight) view[slot] = null;
	changed();
	if (mutates(verb) && !view.job && view === here()) run("status", { quiet: true });
}

export async function ask(view, job, signal) {
	let first = true;
	const got = await post("pve", job.id, job.body, signal, ({ type, text }) => {
		if (type !== "output") return;
		job.until = Date.now() + RESEND_MS; // the host has it: asking again can only attach
		if (view.job === job && view.phase === "unknown") enter(view, "running");
		heard(view, job, text, first);
		first = false;
	});
	if (got?.error) return { ...got.error, outcome: "error" };
	return got?.outcome ? got : { outcome: "lost", reached: null, message: "no answer came back" };
}

async function act(view, job, flight) {
	Object.assign(view, { job, label: labelOf(job.verb), note: "", holder: null });
	view.sent.add(job.id);
	job.lost ||= view.open.has(job.id);
	view.open.add(job.id);
	enter(view, job.lost ? "unknown" : "running");
	for (let pause = 1_000; view.acting === flight; pause = Math.min(2 * pause, 8_000)) {
		store("session", `job ${view.vm}`, { ...job, lost: true }); // for a reload
		const answer = await ask(view, job, flight.signal);
		if (view.acting !== flight) return;
		// `reached: false` speaks of one sending only. Once one was lost, only `reached: true` settles the id.
		if (answer.reached ? answer.outcome !== "running" : answer.reached === false && !job.lost) return settle(view, job, answer);
		const goesOn = !flight.signal.aborted && (answer.outcome === "running" || Date.now() + pause < job.until);
		stillOpen(view, job, answer, goesOn);
		if (!goesOn) return;
		await sleep(pause, flight.signal);
	}
}

// Confirmed before a reload.
export function resume() {
	const view = here();
	const job = store("session", `job ${view.vm}`);
	if (!job || view.job) return false;
	if (Date.now() < job.until) run(job.verb, { again: job });
	else {
		Object.assign(view, { job, label: labelOf(job.verb) });
		view.sent.add(job.id);
		stillOpen(view, job, { message: "the page was closed before an answer came" }, false);
	}
	return true;
}

function stillOpen(view, job, answer, goesOn) {
	if (answer.outcome === "running") return enter(view, "running");
	job.lost = true;
	const told = { hint: `Last try, ${clock(Date.now())}: ${said(answer)}`, lines: byHand(answer) };
	if (!goesOn) told.sentence = "The {what} may have happened. Ask again sends the same request: it happens at most once, and now if it never arrived.";
	enter(view, "unknown", told);
	poll();
}

async function look(view, job, flight) {
	const loud = !job.quiet && !view.job; // while an outcome is open, a check must not paint over it
	const capture = job.verb === "forensics";
	view.triedAt = Date.now();
	if (capture) view.picture = "waiting";
	if (loud) enter(view, "checking", { label: labelOf(job.verb) });
	const until = Date.now() + (capture ? RESEND_MS : 0);
	let answer;
	for (let pause = 1_000; ; pause *= 2) {
		answer = await ask(view, job, flight.signal);
		if (view.reading !== flight) return;
		if (answer.outcome === "lost") poll();
		if (!["lost", "running", "unknown"].includes(answer.outcome) || Date.now() + pause > until) break;
		await sleep(pause, flight.signal);
	}
	if (capture && !answer.screen) view.picture = null;
	if (loud) settle(view, job, answer);
	else remember(view, job, answer);
}

function settle(view, job, answer) {
	if (mutates(job.verb)) {
		view.job = store("session", `job ${view.vm}`, null);
		view.open.delete(job.id);
	}
	remember(view, job, answer);
	if (answer.code === "unauthorized" && !view.seen) return refuseKey();
	if (answer.outcome !== "error") $("key").open = false;
	view.holder = answer.holder;
	enter(view, phaseAfter(job, answer), told(job, answer));
}

function phaseAfter(job, { outcome, reached }) {
	if (outcome === "error") return reached ? "failed" : "notSent";
	return outcome === "done" && job.verb === "status" ? "idle" : PHASE_OF[outcome] ?? "failed";
}

function told(job, answer) {
	const { outcome, verdict, holder, stage, state, hint } = answer;
	const advice = verdict?.advice ? `Advice: ${labelOf(verdict.advice)}.` : "";
	const lines = verdict?.evidence ?? [];
	if (outcome === "done" && job.verb === "status") return { sentence: `It is ${stateOf(state)[2].toLowerCase()}.` };
	if (outcome === "done") return { sentence: `at ${clock(Date.now())}.` };
	if (outcome === "busy" && holder) return { sentence: `${holding(holder)} Nothing was changed.` };
	if (outcome !== "failed") return { sentence: said(answer), hint: hint ?? advice, lines };
	const far = stage ? `It got as far as: ${stage}. ` : "";
	return { sentence: said(answer), hint: far + advice, lines: [...lines, ...byHand(answer)] };
}

const byHand = ({ by_hand: lines = [] }) => lines.map((line) => `By hand: ${line}`);

function said({ message, verdict, stderr }) {
	const reason = message || verdict?.sentence || stderr?.trim() || "no reason was given";
	return reason.replace(/; nothing was sent$/, "");
}

function remember(view, job, answer) {
	const { outcome, reached, state, last, holder, verdict } = answer;
	if (answer.by_hand?.length && !mutates(job.verb)) {
		store("local", `by-hand ${view.vm}`, view.byHand = answer.by_hand);
	}
	if (answer.warnings) view.warnings = answer.warnings;
	const output = `${answer.stdout ?? ""}${answer.stderr ?? ""}`;
	if (output && output !== view.output.text) heard(view, job, output, true);
	if (answer.screen && !mutates(job.verb)) showPicture(view, job.id);
	const was = view.verdict;
	// A capture saw more than a glance.
	const better = job.verb === "status" && was?.from === "forensics" && was.state === state && was.last === last;
	if (outcome === "done" && !better && (verdict || !mutates(job.verb))) view.verdict = verdict && { ...verdict, state, last, from: job.verb, at: Date.now() };
	const looked = job.verb === "status" || (mutates(job.verb) && outcome === "done");
	if (looked && !(reached && state)) view.trouble = `Could not check at ${clock(Date.now())}: ${said(answer)}`;
	if (reached && !(looked && view.jobs && view.seen?.last === last)) lately(view);
	if (!looked || !reached || !state) return;
	const before = view.seen;
	Object.assign(view, { seen: { state, last, at: Date.now(), holder }, trouble: "" });
	if (before?.last && last && last !== "none" && before.last !== last && !view.sent.has(last)) {
		view.note = `Somebody else changed its power between ${clock(before.at)} and ${clock(view.seen.at)}.`;
	}
}
