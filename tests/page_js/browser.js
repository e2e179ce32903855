// What of a browser the service worker sees: caches, a network with the handler behind it, and open pages. All of it can fail.

import { createHash, webcrypto } from "node:crypto";
import { readFileSync } from "node:fs";
import vm from "node:vm";

const SOURCE = readFileSync(new URL("../../static_site/sw.js", import.meta.url), "utf8");
export const HOME = "https://vm.example/breakglass/";

const digest = (text) => createHash("sha256").update(text).digest("base64");

// A handler's files; `list` is what it says of them.
export function handlerOf(version, files) {
	const digests = Object.fromEntries(Object.entries(files).map(([name, text]) => [name, digest(text)]));
	return { version, files: { ...files }, list: { version, files: digests } };
}

class FakeCache {
	entries = new Map();

	constructor(device) {
		this.device = device;
	}

	async keys() {
		return [...this.entries.keys()].map((url) => ({ url }));
	}

	async match(url) {
		return this.entries.has(url) ? new Response(this.entries.get(url)) : undefined;
	}

	async put(url, response) {
		const text = await response.text();
		if (this.device.isFull) throw new Error("QuotaExceededError");
		this.entries.set(url, text);
	}

	async delete(url) {
		return this.entries.delete(url);
	}
}

// A device with its caches and its connection. Workers come and go on it.
export class Device {
	caches = new Map();
	asked = [];
	messages = [];
	isFull = false;
	handler = null; // nothing answers
	replies = {}; // by name: what is answered in place of the file

	async open(name) {
		if (!this.caches.has(name)) this.caches.set(name, new FakeCache(this));
		return this.caches.get(name);
	}

	async fetch(request, options = {}) {
		const url = new URL(typeof request === "string" ? request : request.url, HOME);
		const name = url.pathname.slice(new URL(HOME).pathname.length) || "./";
		this.asked.push(options.cache ? `${name} ${options.cache}` : name);
		if (name in this.replies) return this.replies[name]();
		if (!this.handler) throw new TypeError("Failed to fetch");
		const headers = { "content-security-policy": `of ${this.handler.version}`, "content-encoding": "gzip" };
		if (name === "files.json") return new Response(JSON.stringify(this.handler.list), { headers });
		if (!(name in this.handler.files)) return new Response("", { status: 404 });
		return new Response(this.handler.files[name], { headers });
	}

	// Starts a worker, as a browser does whenever it needs one, and returns it.
	start() {
		return new Worker(this);
	}

	// Starts a worker for the first time, on a page that is open, and returns it once it is installed.
	async install() {
		const worker = this.start();
		await worker.dispatch("install");
		await worker.dispatch("activate");
		return worker;
	}

	async storedSets() {
		const cache = [...this.caches].find(([name]) => name.startsWith("breakglass page"))?.[1];
		return cache ? [...cache.entries.values()].map((text) => JSON.parse(text)) : [];
	}
}

class Worker {
	listeners = {};
	hasSkippedWaiting = false;

	constructor(device) {
		const place = {
			AbortSignal, Response, TextDecoder, URL, Uint8Array, btoa, crypto: webcrypto,
			location: new URL("sw.js", HOME),
			addEventListener: (type, listener) => { this.listeners[type] = listener; },
			skipWaiting: async () => { this.hasSkippedWaiting = true; },
			caches: { open: (name) => device.open(name), delete: async (name) => device.caches.delete(name) },
			clients: {
				claim: async () => {},
				matchAll: async () => [{ postMessage: (message) => device.messages.push({ ...message }) }],
			},
			fetch: (request, options) => device.fetch(request, options),
		};
		place.self = place;
		vm.runInNewContext(SOURCE, place);
	}

	// Sends an event, and returns its answer once everything that it began has ended. Without an answer: undefined.
	async dispatch(type, event = {}) {
		const begun = [];
		let answer;
		this.listeners[type]({
			...event,
			waitUntil: (promise) => begun.push(promise),
			respondWith: (promise) => { answer = promise; },
		});
		await Promise.all(begun);
		return answer;
	}

	// Opens the page, as page number `page`, and returns its text. Renewing has ended by then.
	async navigate(page, path = "./") {
		const response = await this.get(path, { mode: "navigate", clientId: "", resultingClientId: page });
		return response?.text();
	}

	// Loads a file for an open page.
	async load(page, path) {
		const response = await this.get(path, { mode: "cors", clientId: page, resultingClientId: "" });
		return response?.text();
	}

	async get(path, { mode, clientId, resultingClientId }, method = "GET") {
		const request = { method, mode, url: new URL(path, HOME).href };
		return this.dispatch("fetch", { request, clientId, resultingClientId });
	}
}
