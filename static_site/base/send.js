// The only module that sends requests. It signs them (Standard Webhooks v1), and reads the lines of the answer.

import { HOME } from "./storage.js";
import { MINUTE } from "./words.js";

const SILENCE_MS = 25_000; // the stream pings every 10 s

/** @typedef {(line: any) => void} Take */

/** @type {CryptoKey|null} */
let key = null;

/** How far this device's clock is behind, which the answer to a stale request tells; null means less than five minutes. @type {(ms: number|null) => void} */
let tellClock = () => {};

/** @param {typeof tellClock} listener */
export function onClock(listener) {
	tellClock = listener;
}

/** @param {CryptoKey|null} given */
export function useKey(given) {
	key = given;
}
export const currentKey = () => key;

export const newId = () => `msg_${crypto.randomUUID()}`;

/** Whether a request may still be sent without asking the person. Setting the clock back does not make it younger. @param {{at: number}} sent */
export const young = ({ at }) => Math.abs(Date.now() - at) < MINUTE;

/** @param {number} ms  @param {AbortSignal} [signal]  @returns {Promise<void>} */
export function sleep(ms, signal) {
	return new Promise((resolve) => {
		setTimeout(resolve, ms);
		signal?.addEventListener("abort", () => resolve());
	});
}

/** Sends a request, and passes each line of the answer to `take`. Returns the last line or the plain answer, or null if none arrived.
 * @param {string} path  @param {string} id  @param {string} body  @param {AbortSignal} signal  @param {Take} take  @returns {Promise<any>} */
export async function post(path, id, body, signal, take = () => {}) {
	const began = { at: Date.now() };
	const answer = await postOnce(path, id, body, signal, take);
	const { code, server_time: theirs, challenge } = answer?.error ?? {};
	const stale = code === "stale-timestamp";
	if (answer) tellClock(stale ? theirs * 1000 - Date.now() : null);
	if (!stale || !challenge || !young(began)) return answer;
	// The handler judges the request by the challenge's age, so the signature keeps this device's time.
	return postOnce(path, id, body, signal, take, challenge);
}

/** Sends a request once. Its field `to` makes the request invalid at every other handler.
 * @param {string} path  @param {string} id  @param {string} wanted  @param {AbortSignal} signal  @param {Take} take  @param {string} [challenge] */
async function postOnce(path, id, wanted, signal, take, challenge) {
	const body = JSON.stringify({ ...JSON.parse(wanted), challenge, to: HOME.href });
	const line = new AbortController();
	const cut = () => line.abort();
	let timer = setTimeout(cut, SILENCE_MS);
	signal.addEventListener("abort", cut);
	try {
		const headers = { "content-type": "application/json", accept: "application/x-ndjson", ...await signed(id, body) };
		if (signal.aborted) cut();
		const response = await fetch(path, { method: "POST", redirect: "error", headers, body, signal: line.signal });
		if (!response.body || !response.headers.get("content-type")?.includes("ndjson")) {
			const answer = await response.json();
			return answer.error && typeof answer.error.code !== "string" ? null : answer; // such an error comes from a proxy
		}
		const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
		let last = null;
		for (let rest = ""; ;) {
			const { value, done } = await reader.read();
			if (done) return last; // an incomplete last line is ignored
			clearTimeout(timer);
			timer = setTimeout(cut, SILENCE_MS);
			const lines = (rest + value).split("\n");
			rest = lines.pop() ?? "";
			for (const words of lines) {
				last = JSON.parse(words);
				take(last);
			}
		}
	} catch {
		return null;
	} finally {
		clearTimeout(timer);
	}
}

/** @param {string} id  @param {string} body */
async function signed(id, body) {
	if (!key) throw new Error("locked");
	const timestamp = Math.floor(Date.now() / 1000);
	const bytes = new TextEncoder().encode(`${id}.${timestamp}.${body}`);
	const mac = new Uint8Array(await crypto.subtle.sign("HMAC", key, bytes));
	return { "webhook-id": id, "webhook-timestamp": String(timestamp), "webhook-signature": `v1,${btoa(String.fromCharCode(...mac))}` };
}
