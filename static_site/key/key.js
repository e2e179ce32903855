// Takes, tests, stores and forgets the signing key. The stored form can't be read out.

import { askPerson, stopAsking } from "../base/dialog.js";
import { $, setShown, setText, setTexts } from "../base/dom.js";
import { currentKey, useKey } from "../base/send.js";
import { LOCAL, OWN, forgetAll, keep, keyStore, recall } from "../base/storage.js";
import { ended, span } from "../base/words.js";
import { pollHealth } from "../state/health.js";
import { dispatch, getState, subscribe } from "../state/store.js";

/** How long to wait for the browser's database. Some databases never open, and a person then enters the key. */
const STORE_MS = 3_000;

/** What is known about the stored key. @typedef {{since: number, tested: number, persisted: boolean|null}} Kept */

const secret = /** @type {HTMLInputElement} */ ($("secret"));
const keepBox = /** @type {HTMLInputElement} */ ($("keep-key"));
let untaken = ""; // why this browser does not store the key
/** @type {Kept|null} what was known about the stored key when the page opened */
let before = recall("local", "key");

/** Takes a key as text. @param {string|null} text */
export async function unlock(text) {
	if (isPairingLink(text)) {
		openPairing(text);
		return;
	}
	if (!crypto.subtle) {
		const { port, hostname, pathname } = location;
		setShown({ unlock: false });
		setText($("too-old"), "This browser can sign requests only over https or at localhost. "
			+ `Run: ssh -L 8080:localhost:${port || 80} ${hostname} and open http://localhost:8080${pathname}`);
		return;
	}
	const key = await importKey(text ?? "").catch(() => null);
	setText($("key-trouble"), key ? "" : "That isn't a complete signing key. It is one word beginning with whsec_; copy all of it.");
	if (!key) return;
	secret.value = "";
	keep("local", "pair", null);
	await takeKey(key);
}

/** @param {string|null} words  @returns {words is string} */
const isPairingLink = (words) => Boolean(words?.includes("#pair="));

/** Follows a pairing link. @param {string} words */
async function openPairing(words) {
	const module = await import("./pair.js").catch(() => null);
	if (module) module.pairDevice(words, { importKey, keepOrNot, takeKey });
	else setText($("key-trouble"), "Nothing was sent. Open the link again.");
}

/** @param {string} text */
export async function importKey(text) {
	const base64 = /^whsec_(.{32,88})$/.exec(text.trim())?.[1] ?? "";
	const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
	return bytes.length ? crypto.subtle.importKey("raw", bytes, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]) : null;
}

/** Continues with a key. @param {CryptoKey} key  @param {boolean} [good] whether the handler has accepted it before */
export async function takeKey(key, good) {
	if (!getState().vm) await pollHealth();
	useKey(key);
	dispatch("unlocked", { good });
}

/** Takes the stored key of this device, if there is one. @param {boolean} allowed */
export async function takeKept(allowed) {
	/** @type {CryptoKey|null|undefined} */
	let kept = null;
	const late = setTimeout(() => dispatch("key-missing"), STORE_MS);
	if (allowed) kept = await keyStore((store) => store.get(1)).catch(() => null);
	else {
		keep("local", "key", null);
		keyStore((store) => store.delete(1)).catch(() => {}); // otherwise the next program on this port could use the key
	}
	clearTimeout(late);
	keepBox.checked ||= Boolean(kept);
	if (kept && !getState().unlocked) await takeKey(kept, Boolean(before?.tested));
}

/** Stores the key if the checkbox for that is ticked. */
export async function keepOrNot() {
	const key = currentKey();
	untaken = "";
	try {
		if (!keepBox.checked) {
			await keyStore((store) => store.delete(1));
			keep("local", "key", null);
		} else if (key) {
			await keyStore((store) => store.put(key, 1));
			/** @param {boolean|null} persisted */
			const note = (persisted) => { // unless the person has had the page forget the key meanwhile
				if (currentKey() !== key || !keepBox.checked) return;
				keep("local", "key", { since: Date.now(), ...recall("local", "key"), tested: Date.now(), persisted });
			};
			note(null);
			navigator.storage?.persist?.().then(note, () => note(false)).then(describeKey); // Firefox asks the person, who may never answer
		}
	} catch (error) {
		keepBox.checked = false;
		untaken = `This browser can’t store the key: ${error instanceof Error ? error.message : error}`;
	}
	describeKey();
}

/** Drops the key from memory, and ends every request that uses the key. */
function drop() {
	useKey(null);
	stopAsking();
	/** @type {HTMLDialogElement} */ ($("large")).close();
	setText($("key-trouble"), "");
}

/** Forgets the key and all that the page has stored, in every tab. */
export function forget() {
	dispatch("locked");
	keepBox.checked = false;
	before = null;
	keepOrNot();
	forgetAll();
}

/** Asks the person before the page forgets the key, because this device may be needed at 03:00. */
export async function askForget() {
	const yes = await askPerson({
		title: "Forget the key?",
		facts: [
			{ term: "Does", words: "Deletes the key, the commands under “By hand” and everything else that this page keeps on this device" },
			{ term: "Costs", words: "This device can’t rescue a VM until you enter the key again" },
		],
		yes: "Forget it", keep: "Keep it",
	});
	if (yes) forget();
}

/** Shows what is known about the stored key, and how long this browser will store the key. */
export function describeKey() {
	/** @type {Kept|null} */
	const kept = recall("local", "key");
	const now = Date.now();
	const ago = before && `${span(now - before.tested)} ago`;
	const tested = kept && getState().key === "proved" ? `tested now${ago ? `, and ${ago}` : ""}` : ago && `tested ${ago}`;
	const sure = kept?.persisted ? "The browser has promised not to delete the key." : "The browser may delete the key when space runs short.";
	setTexts({
		"key-word": kept ? `kept here since ${new Date(kept.since).toLocaleDateString("en-GB", { day: "numeric", month: "short" })}` : "not kept here",
		"key-kept": kept ? `Key kept${tested ? `, ${tested}` : ""}. ${sure}` : `${untaken && ended(untaken)} The key is only in this tab, and is gone when you close it.`.trim(),
	});
}

/** Takes the demo's throw-away key from the address, but only on this machine, and removes that key from the address bar. */
export function keyInAddress() {
	if (isPairingLink(location.hash)) openPairing(location.hash);
	const given = new URLSearchParams(location.hash.slice(1)).get("key");
	if (given === null) return null;
	history.replaceState(null, "", location.pathname + location.search);
	if (LOCAL.test(location.hostname)) return given.replaceAll(" ", "+");
	setText($("key-trouble"), "Only the demo takes a key from the address. Enter your key here instead.");
	return null;
}

subscribe((state, was) => {
	if (state.key === was.key) return;
	if (was.unlocked && !state.unlocked) drop();
	(state.unlocked ? $("key-kept") : secret).after($("may-keep"));
	if (state.key === "proved" && keepBox.checked) keepOrNot();
	if (state.key === "refused") { // the key stays stored, because the fault may be in Breakglass
		setText($("key-trouble"), "Breakglass rejected this key. Is it complete, and made for this address?");
		secret.focus();
	}
	if (state.key === "revoked") setText($("key-trouble"), "Breakglass accepted this key before and refuses it now. Ask the person who runs Breakglass for a new pairing link, and enter it here.");
	describeKey();
});
addEventListener("storage", ({ key, newValue }) => {
	if (key === `${OWN}vms` && newValue === null) forget(); // another tab has forgotten the key
});
