// The key, and the function of each button.

import { askAgain, noteProposal, send, stopTurn } from "./chat.js";
import { poll, resume, run } from "./run.js";
import { render, watch } from "./view.js";
import { $, OWN, changed, enter, health, here, leave, me, put, resting, show, store, text, views, vmHealth } from "./state.js";

const REFRESH_MS = 15_000;
const LOCAL = /^((.+\.)?localhost|127(\.\d+){3}|\[::1\])$/;

async function begin(key) {
	if (!me.vm) await poll();
	me.key = key;
	here().seen = null;
	if (!resume()) run("status");
}

async function unlock(secret) {
	if (!crypto.subtle) {
		const { port, hostname, pathname } = location;
		show({ unlock: false });
		return text({ "key-trouble": "This browser signs only over https or on its own machine. "
			+ `Run: ssh -L 8080:localhost:${port || 80} ${hostname} and open http://localhost:8080${pathname}` });
	}
	let key;
	try {
		const base64 = /^whsec_(.{32,88})$/.exec(secret.trim())[1];
		const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
		key = await crypto.subtle.importKey("raw", bytes, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
	} catch {
		return text({ "key-trouble": "That isn't a complete signing key. It is one word beginning with whsec_; copy all of it." });
	}
	text({ "key-trouble": $("secret").value = "" });
	begin(key);
}

// As a key that can't be read out.
async function stored(act) {
	const done = (request) => new Promise((resolve, reject) => {
		Object.assign(request, { onsuccess: () => resolve(request.result), onerror: () => reject(request.error) });
	});
	const opening = indexedDB.open(OWN, 1);
	opening.onupgradeneeded = () => opening.result.createObjectStore("key");
	const database = await done(opening);
	return done(act(database.transaction("key", "readwrite").objectStore("key")));
}

async function keepOrNot() {
	try {
		if (!$("keep-key").checked) await stored((store) => store.delete(1));
		else if (me.key) await stored((store) => store.put(me.key, 1));
	} catch (error) {
		$("keep-key").checked = false;
		text({ "key-trouble": `This browser can’t store it: ${error?.message}` });
	}
}

function lock() {
	me.key = null;
	for (const view of views.values()) {
		view.acting?.abort();
		view.reading?.abort();
		view.chat?.flight?.abort();
		view.acting = view.reading = null;
	}
	views.clear();
	$("confirm").close();
	$("key").open = true;
	text({ "key-trouble": "" });
	changed();
}

function forget() {
	lock();
	$("keep-key").checked = false;
	keepOrNot();
	try {
		for (const storage of [localStorage, sessionStorage]) {
			for (const name of Object.keys(storage)) if (name.startsWith(OWN)) storage.removeItem(name);
		}
	} catch {}
}

// The demo's throw-away key: on this machine only, and out of the address bar.
function keyInAddress() {
	const secret = new URLSearchParams(location.hash.slice(1)).get("key");
	if (secret === null) return null;
	history.replaceState(null, "", location.pathname + location.search);
	if (LOCAL.test(location.hostname)) return secret.replaceAll(" ", "+");
	return text({ "key-trouble": "A key in the address is only for the demo. Enter it here instead." });
}

function choose(name) {
	if (!vmHealth(name)) return false;
	me.vm = $("vm").value = name;
	store("session", "vm", name);
	if (me.key) resume();
	changed();
	return true;
}

const PRESSED = {
	forget,
	keep: () => $("confirm").close(),
	"ask-rest": askAgain,
	recap: () => send(true),
	"stop-turn": stopTurn,
	watch,
	"try-now": poll,
	anyway: () => run(here().verb, { more: { anyway: here().offer } }), // a refusal is final for its id
	"ask-again": () => run(here().job.verb, { again: here().job }),
	"stop-waiting"() {
		const view = here();
		if (view.acting) return view.acting.abort(); // then its outcome is unknown
		view.reading?.abort();
		view.reading = view.waiting = null;
		enter(view, "idle", { sentence: "You stopped waiting." });
	},
	async copy(button) {
		let word = "Copied";
		try {
			await navigator.clipboard.writeText($("output").textContent);
		} catch {
			word = "Not copied";
		}
		put(button, word);
	},
};

const on = (target, type, act) => target.addEventListener(type, act);
on(document, "click", (event) => {
	const button = event.target.closest("button");
	if (!button) return;
	const { verb, approve, job, vm, why } = button.dataset;
	if (verb) run(verb);
	else if (approve && choose(vm)) run(approve, { more: { id: job, reason: why } });
	else if (approve) noteProposal(job, "There is no such VM here.");
	else PRESSED[button.id]?.(button);
});
on(document, "submit", (event) => {
	event.preventDefault();
	if (event.target === $("ask")) send();
	else unlock($("secret").value);
});
on(document, "visibilitychange", () => (document.hidden ? $("confirm").close() : poll()));
on(document, "changed", render);
on(document, "accepted", () => {
	leave($("unlock"));
	$("key").open = false;
	if ($("keep-key").checked) keepOrNot();
});
on(document, "refused", () => {
	lock(); // a stored key stays: the fault may be the handler's
	text({ "key-trouble": "The handler rejected this key. Is it complete, and made for this handler?" });
	$("secret").focus();
});
on($("keep-key"), "change", keepOrNot);
on($("vm"), "change", () => choose($("vm").value));
on($("prompt"), "keydown", ({ key, ctrlKey, metaKey }) => {
	if (key === "Enter" && (ctrlKey || metaKey)) send();
	if (key === "Escape") stopTurn();
});
on(window, "storage", ({ key, newValue }) => key === `${OWN}vms` && newValue === null && forget());
on(window, "hashchange", () => location.reload());

setInterval(() => {
	changed();
	const due = resting(here()) && health.fails < 2 && Math.abs(Date.now() - here().triedAt) >= REFRESH_MS;
	if (due && !document.hidden) run("status", { quiet: true });
}, 1_000);

$("by-hand").open = false;
changed();
show({ app: true });
const given = keyInAddress();
if (given) store("session", "demo", true);
const keeps = given || !LOCAL.test(location.hostname) || store("session", "demo");
show({ "may-keep": keeps, "no-keep": !keeps });
if (!keeps) stored((store) => store.delete(1)).catch(() => {}); // whatever listens on this port next could use it
if (me.vm) poll();
else await poll();
if (given || !crypto.subtle) unlock(given);
else {
	const key = keeps && await stored((store) => store.get(1)).catch(() => {});
	$("keep-key").checked ||= key;
	if (key) begin(key);
}

const policy = window.trustedTypes?.createPolicy("breakglass", { createScriptURL: () => "sw.js" });
navigator.serviceWorker?.register(policy?.createScriptURL("") ?? "sw.js").catch(() => {});
