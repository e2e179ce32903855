// The one function that runs a verb. A lost answer is "unknown": the same id is sent again.

import { noteProposal, resumeChat } from "./chat.js";
import { newId, post, young } from "./send.js";
import {
	$, BUTTONS, age, changed, clock, enter, fullName, health, here, holding, labelOf, mayAnyway, me, mutates,
	noteProven, obstacle, pointless, resting, sleep, stateOf, store, takeNames, tell, text, theirs,
} from "./state.js";

const HEALTH_MS = 10_000;

// One id and one body for good: however often it is sent, the host acts once.
function newJob(view, verb, { id = newId(), ...more } = {}) {
	const body = { verb, vm: view.vm || undefined, ...more };
	if (mutates(verb) && view.seen) {
		if (view.seen.state !== "unknown") body.if_state = view.seen.state;
		body.if_last = view.seen.last ?? undefined;
	}
	return { id, verb, body: JSON.stringify(body), anyway: more.anyway, quiet: true };
}

const ARMED_MS = 400; // the second press of a double click is no answer
let decide = () => {};
let arming;

// Asks a person first: Esc, Enter and Back leave things as they are.
async function confirmed(view, job) {
	const label = labelOf(job.verb);
	const why = obstacle(view, job.verb);
	const { seen, note } = view;
	const was = seen ? `It was ${stateOf(seen.state)[2].toLowerCase()} ${age(seen.at)} ago, at ${clock(seen.at)}.` : "Its state is not known.";
	const anyway = job.anyway || why || pointless(view, job.verb) ? " anyway" : "";
	text({
		"confirm-title": `${label} ${fullName()}${anyway}?`,
		"confirm-text": BUTTONS[job.verb].dataset.consequence + (job.anyway ? ` ${$("anyway").dataset.cost}` : ""),
		"confirm-seen": [why, was, note].filter(Boolean).join(" "),
		keep: { running: "Keep it running", stopped: "Keep it stopped" }[seen?.state] ?? "Leave it as it is",
		yes: `${label} ${me.vm || "the VM"}${anyway}`,
	});
	$("yes").classList.toggle("danger", job.verb !== "start");
	decide(false);
	clearTimeout(arming);
	$("yes").ariaDisabled = true;
	arming = setTimeout(() => { $("yes").ariaDisabled = false; }, ARMED_MS);
	$("confirm").showModal();
	const yes = await new Promise((resolve) => { decide = resolve; });
	job.at = Date.now();
	return yes;
}

$("yes").addEventListener("click", ({ isTrusted }) => {
	if (!isTrusted || $("yes").ariaDisabled === "true") return;
	decide(true);
	$("confirm").close();
});
$("confirm").addEventListener("close", () => $("confirm").open || decide(false));

// What changes power leaves only when it was `confirmed`, now or earlier.
export async function run(verb, { again, quiet, more = {} } = {}) {
	const view = here();
	if (!me.key || $("confirm").open) return;
	const why = quiet || again || mayAnyway(view) ? "" : obstacle(view, verb);
	noteProposal(more.id, why);
	if (why || (quiet && view.reading)) return;
	const changes = mutates(verb);
	const job = again ?? newJob(view, verb, more);
	if (changes && !again && !await confirmed(view, job)) return;
	job.quiet = quiet;
	await pursue(view, job);
	changed();
	if (changes && !view.job && view === here()) run("status", { quiet: true });
}

async function ask(view, job, signal) {
	let first = true;
	const got = await post("pve", job.id, job.body, signal, ({ type, ...line }) => {
		if (!["output", "stage"].includes(type)) return;
		job.at = Date.now(); // the host has it: asking again can only attach
		if (view.job === job && view.phase === "unknown") enter(view, "running");
		if (type === "output") {
			addOutput(view, job, line.text, first);
			first = false;
		} else if (view.phase !== "unknown") view.sentence = progress(line);
		changed();
	});
	if (got?.error) return { ...got.error, outcome: "error" };
	return got?.outcome ? got : { outcome: "lost", message: "no answer came back" };
}

const progress = ({ stage, started, deadline }) => deadline && `Stage: ${stage}; the job ends by ${theirs(started, deadline)}.`;

// Sends a power verb until the host reports its end, or a minute is over.
async function pursue(view, job) {
	const changes = mutates(job.verb);
	const slot = changes ? "acting" : "reading";
	const loud = changes || !(job.quiet || view.job); // while an outcome is open, a check must not paint over it
	const flight = new AbortController();
	view.reading?.abort();
	view.reading = null;
	view[slot]?.abort();
	view[slot] = flight;
	view.waiting = job.verb === "forensics";
	if (changes) {
		job.lost ||= view.sent.get(job.id);
		open(view, job);
		enter(view, job.lost ? "unknown" : "running");
	} else {
		view.triedAt = Date.now();
		job.at = view.waiting ? view.triedAt : 0;
		if (loud) enter(view, "checking", { verb: job.verb });
	}
	for (let pause = 1_000; ; pause = Math.min(2 * pause, 8_000)) {
		if (changes) store("session", `job ${view.vm}`, { ...job, lost: true });
		const answer = await ask(view, job, flight.signal);
		const { code, reached, outcome } = answer;
		if (code === "unauthorized" && !view.seen) return tell("refused");
		// `reached: false` describes one attempt: after a loss, only `reached: true` settles the id.
		const ended = reached ? outcome !== "running" : reached === false && !job.lost;
		const goesOn = () => !ended && !flight.signal.aborted && (outcome === "running" || young(job));
		if (!ended) poll();
		if (goesOn()) {
			if (changes) stillOpen(view, job, answer);
			await sleep(pause, flight.signal);
		}
		if (view[slot] !== flight) return;
		if (goesOn()) continue; // a phone may have slept for hours
		view[slot] = null;
		return ended || !changes ? settle(view, job, answer, loud) : stillOpen(view, job, answer);
	}
}

function open(view, job) {
	Object.assign(view, { job, verb: job.verb, note: "" });
	view.sent.set(job.id, true);
}

// What was under way before a reload.
export function resume() {
	const view = here();
	resumeChat();
	const job = store("session", `job ${view.vm}`);
	if (!job || view.job) return false;
	if (young(job)) run(job.verb, { again: job });
	else {
		open(view, job);
		stillOpen(view, job, { message: "the page was closed before an answer came" });
	}
	return true;
}

function stillOpen(view, job, answer) {
	job.lost = true; // also where it runs: the next sending may reach nobody
	if (answer.outcome === "running") return enter(view, "running", { sentence: progress(answer) });
	enter(view, "unknown", {
		sentence: view.acting ? "" : "The {what} may have happened. "
			+ "Ask again repeats the request: it runs now if it never arrived, and never twice.",
		hint: `Last try, ${clock()}: ${reasonOf(answer)}`,
		lines: byHand(answer),
	});
}

function settle(view, job, answer, loud) {
	if (mutates(job.verb)) {
		view.job = store("session", `job ${view.vm}`, null);
		view.sent.set(job.id, false);
		if (answer.reached) noteProposal(job.id, `${labelOf(job.verb)}: ${answer.outcome} at ${clock()}.`, true);
	}
	view.waiting &&= answer.screen;
	remember(view, job, answer);
	if (!loud) return;
	if (!["error", "lost"].includes(answer.outcome)) tell("accepted");
	Object.assign(view, { holder: answer.holder, offer: answer.anyway });
	enter(view, ...outcomeOf(job, answer));
}

function outcomeOf(job, answer) {
	const { outcome, reached, verdict, holder, stage, state, hint, url } = answer;
	if (outcome === "done" && job.verb === "status") return ["idle", { sentence: `It is ${stateOf(state)[2].toLowerCase()}.` }];
	if (outcome === "done") return ["done", { sentence: `at ${clock()}.` }];
	if (outcome === "busy" && holder) return ["busy", { sentence: `${holding(holder)} Nothing was changed.` }];
	const phase = reached === false ? "notSent" : ["busy", "refused"].includes(outcome) ? outcome : "failed";
	const advice = verdict?.advice ? `Advice: ${labelOf(verdict.advice)}.` : "";
	const lines = verdict?.evidence ?? [];
	if (phase === "notSent") return [phase, { sentence: reasonOf(answer), hint: hint ?? lines[0], url }];
	if (outcome !== "failed") return [phase, { sentence: reasonOf(answer), hint: hint ?? advice, lines }];
	const far = stage ? `It got as far as: ${stage}. ` : "";
	return [phase, { sentence: reasonOf(answer), hint: far + advice, lines: [...lines, ...byHand(answer)] }];
}

const byHand = ({ by_hand: lines = [] }) => lines.map((line) => `By hand: ${line}`);

function reasonOf({ message, verdict, stderr }) {
	const reason = message || verdict?.sentence || stderr?.trim() || "no reason was given";
	return reason.replace(/; nothing was sent$/, "");
}

function remember(view, job, answer) {
	const { outcome, reached, state, last, holder, verdict, chain } = answer;
	const before = view.seen;
	const changes = mutates(job.verb);
	if (reached) noteProven(view.vm, answer.proven);
	if (changes && chain) store("local", `heads ${view.vm}`, addHead(heads(view), chain));
	if (answer.by_hand?.length && !changes) store("local", `by-hand ${view.vm}`, view.byHand = answer.by_hand);
	view.warnings = answer.warnings ?? view.warnings;
	const output = `${answer.stdout ?? ""}${answer.stderr ?? ""}`;
	if (output && output !== view.output.text) addOutput(view, job, output, true);
	if (answer.screen && !changes) showPicture(view, job.id, last);
	const { from, ...was } = view.verdict ?? {};
	// A capture saw more than a glance.
	const better = job.verb === "status" && from === "forensics" && was.state === state && was.last === last;
	if (outcome === "done" && !better && (verdict || !changes)) {
		view.verdict = verdict && { ...verdict, state, last, from: job.verb, at: Date.now() };
	}
	const looked = job.verb === "status" || (changes && outcome === "done");
	if (looked) view.trouble = reached && state ? "" : `Could not check at ${clock()}: ${reasonOf(answer)}.`;
	const ended = !view.jobsTrouble && view.jobs?.every((each) => each.outcome);
	if (reached && !(looked && ended && before?.last === last)) lately(view);
	const { job: open, acting } = view;
	if (open && !acting && view === here() && [last, holder?.job].includes(open.id)) run(open.verb, { again: open });
	if (!looked || view.trouble) return;
	view.seen = { state, last, at: Date.now(), holder };
	if (before?.last && last && last !== "none" && before.last !== last && !view.sent.has(last)) {
		view.note = `Another caller changed its power between ${clock(before.at)} and ${clock()}.`;
	}
}

function addOutput(view, job, more, first) {
	if (job.quiet) return;
	if (first) view.output = { title: `Output of ${labelOf(job.verb)}, ${clock()}`, text: "" };
	view.output.text += more;
	if (job.verb !== "status" && view === here()) $("output-box").open = true;
}

const recall = (view, more) => ask(view, newJob(view, "history", more), new AbortController().signal);

export const whole = async (view, id) => (await recall(view, { job: id })).job;

async function showPicture(view, id, last) {
	const job = await whole(view, id);
	if (job?.screen_png) view.picture = { ...job, last };
	view.waiting = false;
	changed();
}

// The last lines of the chain of jobs that this page saw, of each node.
const heads = ({ vm }) => store("local", `heads ${vm}`) ?? {};
const addHead = (all, { node, n, head }) => ({ ...all, [node]: [...all[node] ?? [], { n, head }].slice(0, 9) });

function checkChain(view, before, { node, n, head, broken, hashes, since }) {
	const kept = before[node] ?? [];
	const gone = since && kept.find((line) => line.n >= since && !hashes.includes(line.head.slice(0, 16)));
	const was = gone && `its line ${gone.n}, which this page saw, is gone`;
	view.chain = broken || gone ? `The record of jobs on node ${node} may have been edited: ${broken || was}.` : "";
	if (!since || gone) return;
	const after = heads(view);
	store("local", `heads ${view.vm}`, { ...after, [node]: [{ n, head }, ...(after[node] ?? []).slice(kept.length)] });
}

export async function lately(view) {
	const before = heads(view); // what comes while the host answers may not be in that answer
	const { jobs, message, verdict, chain } = await recall(view);
	if (chain) checkChain(view, before, chain);
	view.jobs = jobs ?? view.jobs ?? [];
	view.jobsTrouble = jobs ? "" : `not known: ${message ?? verdict?.sentence}`;
	changed();
}

let timer;

export async function poll() {
	clearTimeout(timer);
	const wasDown = health.fails > 1;
	try {
		const response = await fetch("health", { cache: "no-store", signal: AbortSignal.timeout(8_000) });
		const answer = await response.json();
		takeNames(answer.vms);
		const [host, more] = Object.values(answer.hosts);
		if (!more) for (const { name } of answer.vms) noteProven(name, host?.proven);
		Object.assign(health, { answer, fails: 0, downSince: 0, at: Date.now() });
		store("local", "vms", answer.vms);
	} catch {
		health.fails += 1;
		health.downSince ||= Date.now();
		if (health.fails === (health.answer ? 2 : 1)) $("by-hand").open = true;
	}
	const wait = health.fails ? Math.min(1_000 * 2 ** health.fails, 30_000) : HEALTH_MS;
	health.next = Date.now() + wait;
	timer = setTimeout(poll, wait);
	const view = here();
	if (wasDown && !health.fails) run("status", { quiet: mutates(view.verb) || !resting(view) }); // what a verb did stays
	changed();
}
