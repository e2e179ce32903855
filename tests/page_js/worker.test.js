// The service worker, sw.js, without a browser: what it takes up and what it leaves alone.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import vm from "node:vm";

const SOURCE = readFileSync(new URL("../../static_site/sw.js", import.meta.url), "utf8");
const HOME = "https://vm.example/breakglass/";

// Runs the worker where the browser's own names are these few, and returns its listeners.
function startWorker() {
	const listeners = {};
	const place = {
		URL,
		AbortSignal,
		location: new URL("sw.js", HOME),
		addEventListener: (type, listener) => { listeners[type] = listener; },
		caches: { match: async () => undefined },
		fetch: async () => "from the network",
	};
	vm.runInNewContext(SOURCE, place);
	return listeners;
}

// Returns whether the worker answers this request.
function isAnswered(listeners, method, path) {
	let answered = false;
	const request = { method, url: new URL(path, HOME).href, mode: "cors" };
	listeners.fetch({ request, respondWith: () => { answered = true; } });
	return answered;
}

test("the page's files are answered", () => {
	const listeners = startWorker();
	for (const path of ["./", "index.html", "style.css", "app.js", "./#vm=devvm", "./?x"]) {
		assert.equal(isAnswered(listeners, "GET", path), true, path);
	}
});

test("the API, other paths and everything but GET go by", () => {
	const listeners = startWorker();
	for (const path of ["health", "pve", "chat", "alert", "../", "../app.js", "unknown.js"]) {
		assert.equal(isAnswered(listeners, "GET", path), false, path);
	}
	for (const method of ["POST", "HEAD", "PUT"]) {
		assert.equal(isAnswered(listeners, method, "./"), false, method);
	}
});
