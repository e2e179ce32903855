// The jobs that the host remembers, and whether its record of them is complete.

import { newId, post } from "../base/send.js";
import { keep, recall } from "../base/storage.js";
import { dispatch, getState } from "./store.js";

/** @typedef {import("./shape.js").Job} Job */
/** @typedef {Record<string, {n: number, head: string}[]>} Heads */
/** @typedef {{node: string, n: number, head: string, broken?: string, hashes?: string[], since?: number}} Chain */

/** @type {Map<string, Promise<void>>} the reading that is under way, by VM */
const underWay = new Map();

/** Ends the request for the list that is under way, by VM. @type {Map<string, AbortController>} */
const lines = new Map();

/** @param {string} vm  @param {Record<string, string>} [more]  @param {AbortController} [line]  @returns {Promise<any>} */
async function readHistory(vm, more, line = new AbortController()) {
	const body = JSON.stringify({ verb: "history", vm: vm || undefined, ...more });
	const answer = await post("pve", newId(), body, line.signal);
	return answer?.error ?? answer ?? { message: "no answer came back" };
}

/** Returns a job with its output and its picture, null if the host does not know the job, or undefined if the host did not answer. @param {string} vm  @param {string} id  @returns {Promise<Job|null|undefined>} */
export const findJob = async (vm, id) => (await readHistory(vm, { job: id })).job;

/** Reads the list of jobs again, one reading at a time. If several readings wait, only the last one runs. @param {string} vm */
export function refreshHistory(vm) {
	const before = underWay.get(vm) ?? Promise.resolve();
	/** @type {Promise<void>} */
	const reading = before.catch(() => {}).then(() => (underWay.get(vm) === reading ? readList(vm) : undefined));
	underWay.set(vm, reading);
	return reading;
}

/** Drops the reading that is under way, and the one that waits for it. @param {string} vm */
export function dropHistory(vm) {
	lines.get(vm)?.abort();
	underWay.delete(vm);
}

/** @param {string} vm */
async function readList(vm) {
	const before = headsOf(vm); // a line that is added while the host answers may be missing in that answer
	const line = new AbortController();
	lines.set(vm, line);
	const { jobs, message, verdict, chain } = await readHistory(vm, {}, line);
	if (!getState().unlocked || line.signal.aborted) return; // forgotten meanwhile
	const trouble = jobs ? "" : `not known: ${message ?? verdict?.sentence}`;
	dispatch("jobs-came", { vm, jobs, trouble, chain: chain && checkChain(vm, before, chain) });
}

/** Returns the last lines that this page saw of each node's chain of jobs. @param {string} vm  @returns {Heads} */
const headsOf = (vm) => recall("local", `heads ${vm}`) ?? {};

/** Stores the line that this page's own job added to the chain. @param {string} vm  @param {Chain} line */
export function takeChain(vm, { node, n, head }) {
	const heads = headsOf(vm);
	keep("local", `heads ${vm}`, { ...heads, [node]: [...heads[node] ?? [], { n, head }].slice(0, 9) });
}

/** Returns what is wrong with the host's record of jobs, or an empty text. @param {string} vm  @param {Heads} before  @param {Chain} chain */
function checkChain(vm, before, { node, n, head, broken, hashes = [], since }) {
	const kept = before[node] ?? [];
	const gone = since !== undefined && since !== null && kept.find((line) => line.n >= since && !hashes.includes(line.head.slice(0, 16)));
	const was = gone ? `line ${gone.n}, which this page saw earlier, is gone` : "";
	if (since && !gone) {
		const after = headsOf(vm);
		keep("local", `heads ${vm}`, { ...after, [node]: [{ n, head }, ...(after[node] ?? []).slice(kept.length)] });
	}
	return broken || was ? `The record of jobs on node ${node} may have been edited: ${broken || was}.` : "";
}
