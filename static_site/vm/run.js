// Runs a verb. If its answer is lost, the page asks for the answer again.

import { askPerson, isAsking } from "../base/dialog.js";
import { newId, post, sleep, young } from "../base/send.js";
import { OWN, keep, recall } from "../base/storage.js";
import { span } from "../base/words.js";
import { proposalObstacle } from "../state/conversation.js";
import { pollHealth, takeProven } from "../state/health.js";
import { takeChain } from "../state/history.js";
import { fullName, mayAnyway, obstacle, otherName, pointless } from "../state/rules.js";
import { dispatch, getState, subscribe, viewOf } from "../state/store.js";
import { ANYWAY, VERBS, mutates } from "../state/verbs.js";
import { headlineOf } from "./headline.js";

/** A request with one id and body, which acts only once even if it is sent several times.
 * `at`: when the page last knew that the job was under way. `lost`: an earlier attempt may have arrived.
 * @typedef {{id: string, verb: string, body: string, at: number, lost: boolean, quiet: boolean, anyway?: string}} Job */

/** Each VM's requests. @type {Map<string, {acting?: AbortController, reading?: AbortController, isUnasked?: boolean}>} */
const flights = new Map();

/** @param {string} vm */
function flightsOf(vm) {
	const known = flights.get(vm) ?? {};
	flights.set(vm, known);
	return known;
}

/** @param {string} vm  @param {string} verb  @param {{id?: string, [more: string]: any}} [more]  @returns {Job} */
function newJob(vm, verb, { id = newId(), ...more } = {}) {
	const { seen } = viewOf(vm);
	/** @type {Record<string, any>} */
	const body = { verb, vm: vm || undefined, ...more };
	if (mutates(verb) && seen) {
		if (seen.state !== "unknown") body.if_state = seen.state;
		body.if_last ??= seen.last ?? undefined;
	}
	return { id, verb, body: JSON.stringify(body), at: 0, lost: false, quiet: true, anyway: more.anyway };
}

/** Asks the person to confirm the verb. @param {string} vm  @param {Job} job */
async function confirmed(vm, job) {
	const state = getState();
	const view = viewOf(vm);
	const { label, does = "", costs = "", takes = "" } = VERBS[job.verb];
	const but = obstacle(state, view, job.verb);
	const anyway = job.anyway || but || pointless(view, job.verb) ? " anyway" : "";
	const now = Date.now();
	const head = headlineOf(state, view, now);
	const { seen } = view;
	const saw = seen ? `${head.words}, ${span(now - seen.at)} ago` : "Its state is not known";
	const yes = await askPerson({
		title: `${label} ${vm || "the VM"}${anyway}?`,
		small: [fullName(state, vm).replace(`${vm} `, "").replace(/[()]/g, ""), otherName(view) && `on Proxmox ${otherName(view)}`].filter(Boolean).join(", "),
		facts: [
			{ term: "You saw", words: saw, tone: head.tone, icon: head.icon },
			...[but, view.note].filter(Boolean).map((words) => ({ term: "But", words })),
			{ term: "Does", words: does },
			{ term: "Costs", words: job.anyway ? `${costs}. ${ANYWAY[job.anyway]}` : costs },
			{ term: "Takes", words: takes },
		],
		yes: `${label} ${vm || "the VM"}${anyway}`,
		yesIcon: job.verb,
		keep: { running: "Keep it running", stopped: "Keep it off" }[seen?.state ?? ""] ?? "Leave it as it is",
		danger: job.verb !== "start",
	});
	job.at = Date.now();
	return yes;
}

/** Runs a verb on the shown VM, or on `vm`. A verb that changes power is sent only if it was `confirmed`, now or earlier.
 * @param {string} verb  @param {{vm?: string, again?: Job, quiet?: boolean, unasked?: boolean, more?: {id?: string, [more: string]: any}}} options  @returns
 * {Promise<any>} */
export async function runVerb(verb, { vm = getState().vm, again, quiet = false, unasked = false, more = {} } = {}) {
	const state = getState();
	const view = viewOf(vm);
	if (!state.unlocked || isAsking()) return;
	const now = Date.now();
	const free = quiet || again || mayAnyway(view, now);
	const why = (more.id && proposalObstacle(state, more.id, now)) || (free ? "" : obstacle(state, view, verb));
	if (more.id) dispatch("proposal-pressed", { job: more.id, words: why });
	if (why) dispatch("nudged", { vm, words: why });
	if (why || (quiet && view.reading)) return;
	const changes = mutates(verb);
	const job = again ?? newJob(vm, verb, more);
	if (changes && !again && !await confirmed(vm, job)) return;
	job.quiet = quiet;
	return pursue(vm, job, unasked);
}

/** @param {string} vm  @param {Job} job  @param {AbortSignal} signal */
async function sendJob(vm, job, signal) {
	let first = true;
	let stages = 0;
	const body = job.lost ? job.body.replace("{", '{"again":true,') : job.body;
	const got = await post("pve", job.id, body, signal, ({ type, ...line }) => {
		if (!["output", "stage"].includes(type)) return;
		job.at = Date.now(); // the host has the job, so another request with its id can only attach
		if (type === "stage") dispatch("stage-came", { vm, id: job.id, n: stages++, ...line });
		else if (!job.quiet) {
			dispatch("output-came", { vm, verb: job.verb, text: line.text, first });
			first = false;
		}
	});
	if (got?.error) return { ...got.error, outcome: "error" };
	return got?.outcome ? got : { outcome: "lost", message: "no answer came back" };
}

/** Sends a verb until the host reports its end, or a minute is over. @param {string} vm  @param {Job} job  @param {boolean} unasked  @returns {Promise<any>} */
async function pursue(vm, job, unasked) {
	const changes = mutates(job.verb);
	const slot = changes ? "acting" : "reading";
	const lines = flightsOf(vm);
	const flight = new AbortController();
	lines.reading?.abort();
	delete lines.reading; // do not wait for the end of the read, which would overwrite the outcome of the new verb
	if (changes) lines.acting?.abort();
	lines[slot] = flight;
	if (!changes) lines.isUnasked = job.quiet || unasked;
	const loud = changes || !(job.quiet || viewOf(vm).open); // while an outcome is open, a check must not replace it on the page
	job.lost ||= changes && viewOf(vm).sent[job.id] === true;
	dispatch(changes ? "act-begun" : "read-begun", { vm, id: job.id, verb: job.verb, lost: job.lost, loud });
	if (!changes) job.at = job.verb === "forensics" ? Date.now() : 0;
	for (let pause = 1_000; ; pause = Math.min(2 * pause, 8_000)) {
		if (changes) keep("session", `job ${vm}`, { ...job, lost: true });
		const answer = await sendJob(vm, job, flight.signal);
		if (lines[slot] !== flight) return;
		const { code, reached, outcome } = answer;
		if (code === "unauthorized") return refuseKey(vm, job);
		// `reached: false` describes one attempt: after a loss, only `reached: true` settles the id.
		const ended = reached ? outcome !== "running" : reached === false && !job.lost;
		const goesOn = () => !ended && !flight.signal.aborted && (outcome === "running" || young(job));
		if (!ended) pollHealth();
		if (goesOn()) {
			if (changes) leaveOpen(vm, job, answer, true);
			await sleep(pause, flight.signal);
		}
		if (lines[slot] !== flight) return;
		if (goesOn()) continue; // checked again, because a phone may have slept for hours
		delete lines[slot];
		if (!changes && flight.signal.aborted) return dispatch("read-dropped", { vm }); // another verb has replaced this one
		if (changes && !ended) return leaveOpen(vm, job, answer, false);
		settle(vm, job, answer, loud);
		return answer;
	}
}

/** Handles a refused key. A request that the handler has never accepted is not sent with the next key. @param {string} vm  @param {Job} job */
function refuseKey(vm, job) {
	const { open } = viewOf(vm);
	const isUnsent = mutates(job.verb) && !job.lost;
	if (isUnsent) keep("session", `job ${vm}`, null);
	dispatch("locked", { refused: true, left: isUnsent ? "" : open?.verb });
}

/** @param {string} vm  @param {Job} job  @param {any} answer  @param {boolean} acting */
function leaveOpen(vm, job, answer, acting) {
	job.lost = true; // even if the host runs the job, because the next attempt may reach no host
	dispatch("act-open", { vm, answer, acting });
}

/** @param {string} vm  @param {Job} job  @param {any} answer  @param {boolean} loud */
function settle(vm, job, answer, loud) {
	const { outcome, reached, chain, last, holder } = answer;
	if (mutates(job.verb)) {
		keep("session", `job ${vm}`, null);
		if (chain) takeChain(vm, chain);
	}
	if (reached) takeProven(vm, answer.proven);
	dispatch("settled", { vm, id: job.id, verb: job.verb, body: job.body, answer, loud, clockOff: getState().clockOff });
	if (reached || !["error", "lost"].includes(outcome)) dispatch("key-proved");
	addWholeOutput(vm, job, answer);
	// Attach to the job that the host names if its outcome is not known here.
	const { open, acting } = viewOf(vm);
	const recalled = open && recall("session", `job ${vm}`);
	if (open && !acting && recalled && [last, holder?.job].includes(open.id)) runVerb(open.verb, { vm, again: recalled });
}

/** Adds the output of an answer that came without output lines. @param {string} vm  @param {Job} job  @param {any} answer */
function addWholeOutput(vm, job, { stdout = "", stderr = "" }) {
	const text = `${stdout}${stderr}`;
	if (text && !job.quiet && text !== viewOf(vm).output.text) dispatch("output-came", { vm, verb: job.verb, text, first: true });
}

/** Continues the verb that was under way before a reload. Returns whether there was one. */
export function resumeVerb() {
	const { vm } = getState();
	const job = recall("session", `job ${vm}`);
	if (!job || viewOf(vm).open) return false;
	if (young(job)) runVerb(job.verb, { again: job });
	else {
		dispatch("act-recalled", { vm, id: job.id, verb: job.verb });
		dispatch("act-open", { vm, acting: false, answer: { message: "the page was closed before an answer came" } });
	}
	return true;
}

/** Asks again for the open outcome, with the same id. */
export function askAgain() {
	const { vm } = getState();
	const job = recall("session", `job ${vm}`);
	if (job && viewOf(vm).open) runVerb(job.verb, { vm, again: job });
}

/** Stops waiting if the person wants that. A reading verb is dropped, and the outcome of a changing verb becomes unknown. */
export function stopWaiting() {
	const { vm } = getState();
	const lines = flightsOf(vm);
	if (lines.acting) return lines.acting.abort();
	lines.reading?.abort();
	delete lines.reading;
	dispatch("waiting-stopped", { vm });
}

/** Drops the reading verbs that the page sent by itself to a VM. @param {string} vm */
export function dropUnasked(vm) {
	const lines = flightsOf(vm);
	if (!lines.reading || !lines.isUnasked) return;
	lines.reading.abort();
	delete lines.reading;
	dispatch("vm-left", { vm });
}

subscribe((state, before) => {
	if (!before.unlocked || state.unlocked) return;
	for (const lines of flights.values()) {
		lines.acting?.abort();
		lines.reading?.abort();
		delete lines.acting; // so that an answer which arrives later, after the lock, changes nothing
		delete lines.reading;
	}
	flights.clear(); // every request that was under way
});

addEventListener("storage", ({ key, newValue }) => { // another tab has sent a request
	const vm = Object.keys(getState().views).find((name) => key === `${OWN}sent ${name}`);
	if (vm !== undefined && newValue) dispatch("sent-heard", { vm, ids: JSON.parse(newValue) });
});
