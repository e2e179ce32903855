// What the page keeps, on a device that keeps nothing; and the reading of the history, where it fails.

import assert from "node:assert/strict";
import { test } from "node:test";

globalThis.location = new URL("https://vm.example/breakglass/");
const values = new Map();
let isForbidden = false;
const store = new Proxy({
	getItem: (name) => values.get(name) ?? null,
	setItem(name, value) {
		if (isForbidden) throw new Error("QuotaExceededError");
		values.set(name, value);
	},
	removeItem: (name) => values.delete(name),
}, { ownKeys: () => [...values.keys()], getOwnPropertyDescriptor: () => ({ enumerable: true, configurable: true }) });
Object.defineProperty(globalThis, "localStorage", { value: store });
Object.defineProperty(globalThis, "sessionStorage", { value: store });
const { LOCAL, forgetAll, isAppleTab, keep, recall } = await import("../../static_site/base/storage.js");
const { refreshHistory } = await import("../../static_site/state/history.js");
const { dispatch, getState, viewOf } = await import("../../static_site/state/store.js");
const { useKey } = await import("../../static_site/base/send.js");

test("a job whose outcome is open can be asked for again where the browser keeps nothing", () => {
	keep("session", "job devvm", { id: "old" });
	isForbidden = true;
	keep("session", "job devvm", { id: "new" });
	assert.deepEqual(recall("session", "job devvm"), { id: "new" });
	keep("session", "job devvm", null);
	assert.equal(recall("session", "job devvm"), null);
	keep("session", "job devvm", { id: "new" });
	isForbidden = false;
	keep("session", "job devvm", { id: "newest" });
	assert.deepEqual(recall("session", "job devvm"), { id: "newest" });
	forgetAll();
});

async function answersTo(answer) {
	globalThis.fetch = async () => new Response(JSON.stringify(answer), { headers: { "content-type": "application/json" } });
	useKey(await crypto.subtle.importKey("raw", new Uint8Array(32), { name: "HMAC", hash: "SHA-256" }, false, ["sign"]));
}

test("of the jobs that this device has sent, it keeps the newest nine", () => {
	dispatch("names-came", { vms: [{ name: "devvm", vmid: 102, host: "pve1" }], choice: "devvm" });
	dispatch("unlocked");
	const ids = Array.from({ length: 11 }, (_, n) => `job_${n}`);
	viewOf("devvm");
	dispatch("sent-heard", { vm: "devvm", ids });
	assert.deepEqual(recall("local", "sent devvm"), ids.slice(-9));
	forgetAll();
	dispatch("locked");
});

test("a history that can't be read leaves the next one readable", async () => {
	dispatch("unlocked");
	viewOf("devvm");
	values.set("breakglass /breakglass/ heads devvm", '{"pve":{}}');
	await answersTo({ outcome: "done", jobs: [], chain: { node: "pve", n: 1, head: "x", hashes: [], since: 0 } });
	await refreshHistory("devvm").catch(() => {});
	values.clear();
	await refreshHistory("devvm");
	assert.deepEqual(viewOf("devvm").jobs, []);
});

test("a history that comes after Forget leaves nothing on the device", async () => {
	dispatch("unlocked");
	viewOf("devvm");
	await answersTo({ outcome: "done", jobs: [{ id: "x" }], chain: { node: "pve", n: 1, head: "x", hashes: [], since: 1 } });
	const reading = refreshHistory("devvm");
	dispatch("locked");
	await reading;
	assert.equal(getState().views.devvm, undefined);
	assert.deepEqual([...values.keys()].filter((name) => name.includes("heads")), []);
});

test("Forget deletes the page's own values, and none of another page of the origin", () => {
	values.clear();
	const theirs = { vms: "1", "by-hand devvm": "7", "breakglass / vms": "2", "grafana.prefs": "dark" };
	for (const [name, value] of Object.entries(theirs)) values.set(name, value);
	for (const name of ["vms", "by-hand devvm", "job devvm", "chat devvm"]) keep("local", name, { a: 1 });
	assert.equal(values.size, 8);
	forgetAll();
	assert.deepEqual(Object.fromEntries(values), theirs);
});

test("a device that forgets a site's values after seven days is an Apple one, in a tab", () => {
	const isTab = (userAgent, maxTouchPoints, isHome = false) => {
		Object.defineProperty(globalThis, "navigator", { value: { userAgent, maxTouchPoints }, configurable: true });
		globalThis.matchMedia = () => ({ matches: isHome });
		return isAppleTab();
	};
	const [iphone, mac, android] = ["Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X)", "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7)", "Mozilla/5.0 (Linux; Android 15)"];
	assert.deepEqual([isTab(iphone, 5), isTab(mac, 5), isTab(mac, 0), isTab(android, 5), isTab(iphone, 5, true), isTab(mac, 5, true)], [true, true, false, false, false, false]);
});

test("a loopback address is one, by whichever name, and no other is", () => {
	for (const host of ["localhost", "rescue.localhost", "127.0.0.1", "127.8.9.10", "[::1]"]) assert.match(host, LOCAL);
	for (const host of ["localhost.example", "127.0.0.1.example", "10.0.0.1", "notlocalhost", "rescue.test"]) assert.doesNotMatch(host, LOCAL);
});
