// The page's hands: each press goes to the one function that does it.

import { send, stopTurn } from "./chat.js";
import { poll, takeNames } from "./health.js";
import { forget, keepOrNot, keyInAddress, resumeAll, unlock, unlockKept, withoutCrypto } from "./key.js";
import { watch } from "./lately.js";
import { run } from "./run.js";
import { RESTING, changed, enter, here, me, onChange, phaseOf, store } from "./state.js";
import { render } from "./view.js";
import { $, put, show } from "./words.js";

const REFRESH_MS = 15_000;

function choose(name) {
	if (![...$("vm").options].some((option) => option.value === name)) return false;
	me.vm = $("vm").value = name;
	store("session", "vm", name);
	if (me.key) resumeAll();
	changed();
	return true;
}

const DO = {
	forget,
	recap: () => send(true),
	stopTurn,
	watch,
	tryNow: poll,
	askAgain() {
		const { job, acting } = here();
		if (job && !acting) run(job.verb, { again: job });
	},
	stopWaiting() {
		const view = here();
		if (view.acting) return view.acting.abort(); // then its outcome is unknown
		view.reading?.abort();
		view.reading = view.picture = null;
		enter(view, "idle", { sentence: "You stopped waiting. Checking changes nothing." });
	},
	async copy(button) {
		await navigator.clipboard.writeText(here().output.text);
		put(button, "Copied");
		setTimeout(put, 2_000, button, "Copy");
	},
};

document.addEventListener("click", (event) => {
	const button = event.target.closest("button");
	const { verb, approve, job, vm, why, do: what } = button?.dataset ?? {};
	if (verb) run(verb);
	else if (approve && choose(vm)) run(approve, { proposal: { id: job, reason: why } });
	else if (what) DO[what](button);
});

const on = (id, type, act) => $(id).addEventListener(type, act);
on("unlock", "submit", (event) => {
	event.preventDefault();
	unlock($("secret").value);
});
on("keep-key", "change", keepOrNot);
on("vm", "change", () => choose($("vm").value));
on("ask", "submit", (event) => {
	event.preventDefault();
	send();
});
on("prompt", "keydown", ({ key, ctrlKey, metaKey }) => {
	if (key === "Enter" && (ctrlKey || metaKey)) send();
	if (key === "Escape") stopTurn();
});
window.addEventListener("hashchange", () => {
	const secret = keyInAddress();
	if (secret) unlock(secret);
});
document.addEventListener("visibilitychange", () => document.hidden || poll());

setInterval(() => {
	changed();
	const view = here();
	if (document.hidden || !RESTING.has(phaseOf(view))) return;
	if (Date.now() - view.triedAt >= REFRESH_MS) run("status", { quiet: true });
}, 1_000);

onChange(render);
$("by-hand").open = false;
show({ app: true });
takeNames(store("local", "vms") ?? []);
const given = keyInAddress();
await poll();
if (!globalThis.crypto?.subtle) withoutCrypto();
else if (given) unlock(given);
else await unlockKept();

if ("serviceWorker" in navigator) {
	const policy = globalThis.trustedTypes?.createPolicy("breakglass", { createScriptURL: () => "sw.js" });
	navigator.serviceWorker.register(policy ? policy.createScriptURL("") : "sw.js").catch(() => {});
}
