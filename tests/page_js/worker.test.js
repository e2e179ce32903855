// The service worker, sw.js, without a browser: which files it shows, when it renews them, and what it leaves alone.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Device, HOME, handlerOf } from "./browser.js";

const OLD = handlerOf("old", { "./": "old page", "app.js": "old app", "gone.js": "old module" });
const NEW = handlerOf("new", { "./": "new page", "app.js": "new app", "come.js": "new module" });

// A device that has the old page, and whose handler has been upgraded.
async function upgradedDevice() {
	const device = new Device();
	device.handler = OLD;
	await device.install();
	device.handler = NEW;
	device.asked = [];
	return device;
}

test("the page opens from the device, without a connection", async () => {
	const device = new Device();
	device.handler = OLD;
	await device.install();
	device.handler = null;
	const worker = device.start();
	assert.equal(await worker.navigate("1"), "old page");
	assert.equal(await worker.load("1", "app.js"), "old app");
});

test("opening waits for no answer", async () => {
	const device = await upgradedDevice();
	device.replies["files.json"] = () => new Promise(() => {});
	const request = { method: "GET", mode: "navigate", url: HOME };
	const response = await new Promise((answered) => {
		device.start().listeners.fetch({ request, resultingClientId: "1", respondWith: answered, waitUntil() {} });
	});
	assert.equal(await response.text(), "old page");
});

test("the second opening shows the new set, and its pages are told at the first", async () => {
	const device = await upgradedDevice();
	const worker = device.start();
	assert.equal(await worker.navigate("1"), "old page");
	assert.deepEqual(device.messages, [{ newPage: "new" }]);
	assert.equal(await worker.navigate("2"), "new page");
	assert.equal(await worker.load("2", "app.js"), "new app");
	assert.equal(await worker.load("2", "come.js"), "new module");
	assert.equal(device.messages.length, 1);
	assert.equal((await device.storedSets()).length, 1);
});

test("an open page gets the files of its set, even when a file has gone, and from another worker", async () => {
	const device = await upgradedDevice();
	await device.start().navigate("1");
	for (const worker of [device.start(), device.start()]) {
		assert.equal(await worker.load("1", "app.js"), "old app");
		assert.equal(await worker.load("1", "gone.js"), "old module");
	}
});

test("two pages that open while the files change each get their own set", async () => {
	const device = await upgradedDevice();
	const worker = device.start();
	assert.equal(await worker.navigate("1"), "old page");
	assert.equal(await worker.navigate("2"), "new page");
	assert.equal(await worker.load("1", "app.js"), "old app");
	assert.equal(await worker.load("2", "app.js"), "new app");
});

test("an upgrade that is under way is not stored: no file of another version than the list's", async () => {
	const device = await upgradedDevice();
	device.replies["app.js"] = () => new Response("old app");
	const worker = device.start();
	await worker.navigate("1");
	assert.equal(await worker.navigate("2"), "old page");
	assert.deepEqual(device.messages, []);
	delete device.replies["app.js"];
	await worker.navigate("3");
	assert.equal(await worker.navigate("4"), "new page");
});

for (const [what, reply] of Object.entries({
	"an error page": () => new Response("<h1>Bad gateway</h1>", { status: 502 }),
	"a login page": () => new Response("<form>"),
	"a redirect": () => Object.defineProperty(new Response(JSON.stringify(NEW.list)), "redirected", { value: true }),
	"another page's list": () => new Response(JSON.stringify({ files: {} })),
})) {
	test(`${what} of a proxy is not stored, in place of the list or of a file`, async () => {
		for (const name of ["files.json", "app.js", "./"]) {
			const device = await upgradedDevice();
			device.replies[name] = reply;
			const worker = device.start();
			await worker.navigate("1");
			assert.equal(await worker.navigate("2"), "old page", name);
			assert.equal(await worker.load("2", "app.js"), "old app", name);
		}
	});
}

test("a full disk leaves the old set whole", async () => {
	const device = await upgradedDevice();
	device.isFull = true;
	const worker = device.start();
	await worker.navigate("1");
	assert.equal(await worker.navigate("2"), "old page");
	assert.equal(await worker.load("2", "gone.js"), "old module");
});

test("on a full disk nothing is installed", async () => {
	const device = new Device();
	device.handler = OLD;
	device.isFull = true;
	await assert.rejects(device.install());
	assert.deepEqual(await device.storedSets(), []);
});

test("a set that is damaged is replaced, and the network is asked meanwhile", async () => {
	const device = await upgradedDevice();
	const [cache] = device.caches.values();
	for (const key of cache.entries.keys()) cache.entries.set(key, "{");
	assert.equal(await device.start().navigate("1"), "new page");
	device.handler = null;
	assert.equal(await device.start().navigate("2"), "new page");
});

test("when nothing has changed, one request says so", async () => {
	const device = await upgradedDevice();
	device.handler = OLD;
	await device.start().navigate("1");
	assert.deepEqual(device.asked, ["files.json no-cache"]);
	assert.deepEqual(device.messages, []);
});

test("the first installation takes what the browser has just loaded, if it is right", async () => {
	const device = new Device();
	device.handler = OLD;
	const worker = await device.install();
	assert.ok(worker.hasSkippedWaiting);
	const files = Object.keys(OLD.files).map((name) => `${name} force-cache`);
	assert.deepEqual(device.asked, ["files.json no-cache", ...files]);
	let times = 0;
	const again = new Device();
	again.handler = OLD;
	again.replies["app.js"] = () => new Response(times++ ? "old app" : "app of last year");
	await again.install();
	assert.ok(again.asked.includes("app.js reload"));
});

test("between two sets of one version, only what differs is fetched", async () => {
	const device = await upgradedDevice();
	device.handler = handlerOf("old", { ...OLD.files, "app.js": "mended app" });
	const worker = device.start();
	await worker.navigate("1");
	assert.deepEqual(device.asked, ["files.json no-cache", "app.js no-cache"]);
	await worker.navigate("2");
	assert.equal(await worker.load("2", "app.js"), "mended app");
	assert.equal(await worker.load("2", "gone.js"), "old module");
});

test("a file keeps its headers, the policy above all, and the new ones come with a new version", async () => {
	const device = await upgradedDevice();
	device.handler = handlerOf("new", OLD.files);
	const worker = device.start();
	const opened = { mode: "navigate", clientId: "", resultingClientId: "1" };
	const policies = [];
	for (const _ of "12") {
		const response = await worker.get("./", opened);
		assert.equal(response.headers.get("content-encoding"), null);
		policies.push(response.headers.get("content-security-policy"));
	}
	assert.deepEqual(policies, ["of old", "of new"]);
});

test("a page that is looked at again has its files renewed", async () => {
	const device = await upgradedDevice();
	const worker = device.start();
	await worker.dispatch("message", { data: "renew" });
	assert.deepEqual(device.messages, [{ newPage: "new" }]);
	await worker.dispatch("message", { data: "renew" });
	assert.equal(device.messages.length, 2); // still not shown
	assert.equal(await worker.navigate("1"), "new page");
});

test("a handler that goes back to the old version is followed", async () => {
	const device = await upgradedDevice();
	const worker = device.start();
	await worker.navigate("1");
	device.handler = OLD;
	await worker.navigate("2");
	assert.equal(await worker.navigate("3"), "old page");
});

test("the page's address has several forms", async () => {
	const device = await upgradedDevice();
	device.handler = OLD;
	for (const path of ["./", "index.html", "./?x", "./#vm=devvm"]) {
		assert.equal(await device.start().navigate("1", path), "old page");
	}
});

test("the API, other places and everything but GET go by", async () => {
	const worker = (await upgradedDevice()).start();
	for (const path of ["health", "ready", "metrics", "pve", "../", "../app.js", "https://other.example/breakglass/app.js"]) {
		assert.equal(await worker.load("1", path), undefined, path);
	}
	for (const method of ["POST", "HEAD", "PUT"]) {
		assert.equal(await worker.get("./", { mode: "cors", clientId: "1" }, method), undefined, method);
	}
});

test("a file that is not stored comes from the handler", async () => {
	const device = await upgradedDevice();
	device.replies["icon-180.png"] = () => new Response("a picture");
	assert.equal(await device.start().load("1", "icon-180.png"), "a picture");
});
