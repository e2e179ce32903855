// The one place that posts, signed (Standard Webhooks v1), and reads the lines that come back.

import { HOME, MINUTE, me } from "./state.js";

const SILENCE_MS = 25_000; // the stream pings every 10 s

// Whether it may still be sent unasked; a clock set meanwhile makes nothing younger.
export const young = ({ at }) => Math.abs(Date.now() - at) < MINUTE;

// Each line goes to `take`. Returns the last one, or a plain answer; null when none arrived.
export async function post(path, id, body, signal, take = () => {}) {
	const began = { at: Date.now() };
	const answer = await once(path, id, body, signal, take);
	const { code, server_time: theirs, challenge } = answer?.error ?? {};
	const stale = code === "stale-timestamp";
	if (answer) me.clockOff = stale ? theirs * 1000 - Date.now() : 0;
	if (!stale || !challenge || !young(began)) return answer;
	// Judged by the challenge's age; the time in the signature stays our own.
	return once(path, id, body, signal, take, challenge);
}

// `to`: what is signed here is good at no other handler.
async function once(path, id, wanted, signal, take, challenge) {
	const body = JSON.stringify({ ...JSON.parse(wanted), challenge, to: HOME.href });
	const line = new AbortController();
	const cut = () => line.abort();
	let timer = setTimeout(cut, SILENCE_MS);
	signal.addEventListener("abort", cut);
	try {
		const headers = { "content-type": "application/json", accept: "application/x-ndjson", ...await signed(id, body) };
		if (signal.aborted) cut();
		const response = await fetch(path, { method: "POST", redirect: "error", headers, body, signal: line.signal });
		if (!response.headers.get("content-type")?.includes("ndjson")) {
			const answer = await response.json();
			return answer.error && typeof answer.error.code !== "string" ? null : answer; // that is a proxy's
		}
		const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
		let last = null;
		for (let rest = ""; ;) {
			const { value, done } = await reader.read();
			if (done) return last; // a torn last line counts for nothing
			clearTimeout(timer);
			timer = setTimeout(cut, SILENCE_MS);
			const lines = (rest + value).split("\n");
			rest = lines.pop();
			for (const words of lines) take(last = JSON.parse(words));
		}
	} catch {
		return null;
	} finally {
		clearTimeout(timer);
	}
}

async function signed(id, body) {
	const timestamp = Math.floor(Date.now() / 1000);
	const bytes = new TextEncoder().encode(`${id}.${timestamp}.${body}`);
	const mac = new Uint8Array(await crypto.subtle.sign("HMAC", me.key, bytes));
	return { "webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": `v1,${btoa(String.fromCharCode(...mac))}` };
}

export const newId = () => `msg_${crypto.randomUUID()}`;
