// The key: let in, kept on this device when that is wanted, forgotten.

import { forgetChats, resumeChat } from "./chat.js";
import { poll } from "./health.js";
import { resume, run } from "./run.js";
import { importKey, keep, kept, unkeep } from "./send.js";
import { changed, forgetStored, me, views } from "./state.js";
import { $, show, text } from "./words.js";

const LOCAL = /^(localhost|127(\.\d+){3}|\[::1\])$/;

async function begin(key) {
	if (!me.vm) await poll();
	me.key = key;
	if (!resumeAll()) run("status");
}

// What was under way in this VM before a reload.
export function resumeAll() {
	resumeChat();
	return resume();
}

export async function unlock(secret) {
	let key;
	try {
		key = await importKey(secret.trim());
	} catch (error) {
		return text({ "key-trouble": error.message });
	}
	text({ "key-trouble": $("secret").value = "" });
	begin(key);
	keepOrNot();
}

export async function unlockKept() {
	const key = await kept();
	if (!key) return;
	$("keep-key").checked = true;
	begin(key);
}

export async function keepOrNot() {
	try {
		if (!$("keep-key").checked) await unkeep();
		else if (me.key) await keep(me.key);
	} catch (error) {
		$("keep-key").checked = false;
		text({ "key-trouble": `This browser does not keep it: ${error?.message}` });
	}
}

export function refuseKey() {
	forget();
	text({
		"key-trouble": "The handler does not know this key. Is it the whole key, and for this handler?",
	});
	$("secret").focus();
}

export function forget() {
	me.key = null;
	for (const view of views.values()) {
		view.acting?.abort();
		view.reading?.abort();
		view.acting = view.reading = null;
	}
	views.clear();
	forgetChats();
	forgetStored();
	unkeep();
	$("keep-key").checked = false;
	$("key").open = true;
	text({ "key-trouble": "" });
	changed();
}

// The demo's throw-away key: on this machine only, and out of the address bar.
export function keyInAddress() {
	const secret = new URLSearchParams(location.hash.slice(1)).get("key");
	if (secret === null) return "";
	history.replaceState(null, "", location.pathname + location.search);
	if (LOCAL.test(location.hostname)) return secret.replaceAll(" ", "+");
	text({ "key-trouble": "A key in the address is only for the demo on this machine. Enter it here instead." });
	return "";
}

export function withoutCrypto() {
	const port = location.port || "80";
	show({ "key-row": false });
	text({ "key-trouble": "This browser signs only over https or on its own machine. "
		+ `On your machine run: ssh -L ${port}:localhost:${port} ${location.hostname} and open http://localhost:${port}/` });
}
