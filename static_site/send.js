// The one place that posts: signs (Standard Webhooks v1), sends, reads the lines that come back.

import { me } from "./state.js";

const SILENCE_MS = 25_000; // the stream pings every 10 s; longer silence is a dead line

// Each line goes to `take`. Returns the last line, or the object of a plain answer; null when none arrived.
export async function post(path, id, body, signal, take = () => {}) {
	const answer = await once(path, id, body, signal, take);
	const stale = answer?.error?.code === "stale-timestamp" && answer.error;
	if (answer) me.clockOff = stale ? stale.server_time * 1000 - Date.now() : 0;
	if (!stale?.challenge) return answer;
	// Judged by the challenge's age from here on; the time in the signature stays our own.
	return once(path, id, JSON.stringify({ ...JSON.parse(body), challenge: stale.challenge }), signal, take);
}

async function once(path, id, body, signal, take) {
	const line = new AbortController();
	const cut = () => line.abort();
	let timer = setTimeout(cut, SILENCE_MS);
	signal.addEventListener("abort", cut);
	try {
		const headers = { "content-type": "application/json", accept: "application/x-ndjson", ...await signed(id, body) };
		if (signal.aborted) return null;
		const options = { method: "POST", cache: "no-store", redirect: "error", headers, body, signal: line.signal };
		const response = await fetch(path, options);
		if (!response.headers.get("content-type")?.includes("ndjson")) return await response.json();
		const reader = response.body.getReader();
		const decoder = new TextDecoder();
		let last = null;
		for (let rest = ""; ;) {
			const { value, done } = await reader.read();
			if (done) return last; // a torn last line counts for nothing
			clearTimeout(timer);
			timer = setTimeout(cut, SILENCE_MS);
			const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
			rest = lines.pop();
			for (const words of lines) take(last = JSON.parse(words));
		}
	} catch {
		return null;
	} finally {
		clearTimeout(timer);
		signal.removeEventListener("abort", cut);
	}
}

export async function importKey(secret) {
	if (!secret.startsWith("whsec_")) throw new Error("A signing key starts with whsec_. Copy the whole line.");
	let bytes;
	try {
		bytes = Uint8Array.from(atob(secret.slice(6)), (c) => c.charCodeAt(0));
	} catch {
		throw new Error("This is not a whole key: the part after whsec_ is not base64. Copy it again.");
	}
	if (bytes.length < 24 || bytes.length > 64) {
		throw new Error(`This key has ${bytes.length} bytes; a signing key has 24 to 64. Copy the whole line.`);
	}
	return crypto.subtle.importKey("raw", bytes, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
}

async function signed(id, body) {
	const timestamp = Math.floor(Date.now() / 1000); // this device's clock, always
	const bytes = new TextEncoder().encode(`${id}.${timestamp}.${body}`);
	const mac = new Uint8Array(await crypto.subtle.sign("HMAC", me.key, bytes));
	const signature = `v1,${btoa(String.fromCharCode(...mac))}`;
	return { "webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signature };
}

export const newId = () => `msg_${crypto.randomUUID().replaceAll("-", "")}`;

function keeper(mode, act) {
	return new Promise((resolve, reject) => {
		const opening = indexedDB.open("breakglass", 1);
		opening.onupgradeneeded = () => opening.result.createObjectStore("key");
		opening.onerror = () => reject(opening.error);
		opening.onsuccess = () => {
			const work = opening.result.transaction("key", mode);
			const asked = act(work.objectStore("key"));
			work.oncomplete = () => resolve(asked.result);
			work.onabort = () => reject(work.error);
			opening.result.close();
		};
	});
}

export const keep = (key) => keeper("readwrite", (store) => store.put(key, 1));
export const unkeep = () => keeper("readwrite", (store) => store.delete(1)).catch(() => {});
export const kept = () => keeper("readonly", (store) => store.get(1)).catch(() => null);
