// How the page begins: with the first screen, which needs no key. press.js brings the rest of the page.

import { $, setShown, setText } from "./base/dom.js";
import { LOCAL, isAppleTab, recall } from "./base/storage.js";
import { startDrawing, stopDrawing } from "./state/draw.js";
import { pollHealth } from "./state/health.js";
import { isAway } from "./state/rules.js";
import { dispatch, subscribe } from "./state/store.js";
import { REGIONS } from "./vm/render.js";
import { makeButtons } from "./vm/render_vm.js";

/** If a file is missing, what waits for this never continues. @type {Promise<typeof import("./press.js")>} */
const rest = import("./press.js").catch((error) => { // index.html asks for its files last, so on a bad line they arrive after the first screen
	stopDrawing();
	delete document.body.dataset.begun;
	for (const trouble of [new ErrorEvent("error", { error }), new Event("load")]) dispatchEvent(trouble); // so that start_trouble.js acts
	return new Promise(() => {});
});
rest.then(() => dispatchEvent(new Event("whole")));
document.addEventListener("submit", async (event) => {
	event.preventDefault();
	(await rest).submit(event.target);
});
addEventListener("beforeprint", () => { /** @type {HTMLDetailsElement} */ ($("by-hand")).open = true; });
subscribe((state, before) => {
	// If Breakglass is unreachable or has no key here, the page unfolds the commands that work without Breakglass.
	const isAlone = isAway(state) && !isAway(before);
	if (isAlone || (state.key === "revoked" && before.key !== "revoked")) /** @type {HTMLDetailsElement} */ ($("by-hand")).open = true;
});

/** Has the browser store the page. sw.js renews the stored files. @param {() => void} onNewPage  called when the device has a newer page, which the next opening shows */
function registerWorker(onNewPage) {
	const workers = navigator.serviceWorker;
	if (!workers) return; // over plain http
	const policy = window.trustedTypes?.createPolicy("breakglass", { createScriptURL: () => "sw.js" });
	workers.register(policy?.createScriptURL("") ?? "sw.js").catch(() => {});
	workers.addEventListener("message", ({ data }) => {
		if (data.newPage) onNewPage();
	});
	document.addEventListener("visibilitychange", () => {
		if (!document.hidden) workers.controller?.postMessage("renew");
	});
}

async function begin() {
	document.body.dataset.begun = ""; // start_trouble.js tests for this mark
	const names = pollHealth(); // first, because the answer takes its time even if it has arrived
	makeButtons();
	const known = recall("local", "vms") ?? [];
	dispatch("names-came", { vms: known, choice: recall("local", "vm") });
	const isGiven = location.hash.includes("key="); // the demo's address has a key
	const keeps = isGiven || !LOCAL.test(location.hostname) || Boolean(recall("session", "demo"));
	setShown({ "may-keep": keeps, "no-keep": !keeps });
	setText($("key-ios"), isAppleTab() ? "Safari deletes it after seven days without a visit. Add this page to the home screen (Share), and keep the key there." : "");
	startDrawing(...REGIONS);
	setInterval(() => dispatch("tick"), 1_000);
	if (!known.length && !isGiven) dispatch("key-missing");
	if (!known.length) await names;
	await (await rest).open(keeps);
	registerWorker(() => dispatch("page-renewed"));
}

begin();
