// Pairs this device. Given a link, it asks the person, then fetches a signing key once. docs/api.md, "POST /pair", has the rules.
// This module is loaded only for a pairing link. It sends nothing before the person agrees. After that, the link is used up.

import { askPerson } from "../base/dialog.js";
import { $, make, setText } from "../base/dom.js";
import { sleep, useKey } from "../base/send.js";
import { HOME, isAppleTab, keep, keyStore, recall } from "../base/storage.js";
import { isAway } from "../state/rules.js";
import { dispatch, getState, subscribe } from "../state/store.js";

/** @typedef {{id: string, oneTimeKey: string, name: string}} Link */
/** What key.js, which loads this module, does with a key. @typedef {{importKey: (text: string) => Promise<CryptoKey|null>, keepOrNot: () => Promise<void>, takeKey: (key: CryptoKey) => Promise<void>}} Keys */

const STORE_MS = 3_000; // some browsers' databases answer late, or never
const SOUGHT_MS = 12_000; // wait for the stored key to be read, because a later read would replace the new key
const ANSWER_MS = 20_000;
const PROOF_MS = 10_000;
const SENT = "#pair=sent"; // the address while a key is fetched, so that a reload does not request a second key

const SPENT = "This pairing link was used already, or is older than 10 minutes. Ask for a new one. If this device did not use the link, another one did, and its key will be revoked.";
const LOST = "No answer came. The key may have been handed out, so this pairing link counts as used. Ask for a new one.";
const ALTERED = "This pairing link can’t decrypt the key that arrived, so the link was altered or is not complete. Ask for a new one.";
const INTERRUPTED = "The pairing was interrupted. If this device has no key now, ask for a new pairing link.";
const INCOMPLETE = "This isn’t a complete pairing link. Copy all of it, from https to the end, or scan the code again.";
const UNSIGNING = "A pairing link opens only over https. Nothing was sent, so the link still works at its https address.";
const AWAY = "Breakglass does not answer. Nothing was sent. Reload this page once Breakglass answers, or open the link again.";
const PROVED = "This device can now rescue VMs.";
const UNPROVED = "Breakglass has not answered with this key yet.";
const STORING = " This browser is still storing the key: keep this tab open.";
const keepBox = /** @type {HTMLInputElement} */ ($("keep-key"));
const word = Object.assign(make("p.note"), { id: "pair-word" });
word.setAttribute("role", "alert");
$("verbs").after(word);

/** Shows the outcome above the key field. @param {string} words  @param {boolean} good */
function say(words, good = false) {
	if (words && getState().tab !== "vm") dispatch("tab-chosen", { tab: "vm" });
	word.style.color = good ? "var(--good-text)" : "";
	setText(word, words);
}

let declined = false; // whether a person said no, because a dialog also closes when the page is hidden
/** @type {Link|null} the link that the quiet button copies */
let copied = null;
$("keep").addEventListener("click", () => {
	declined = true;
	if (copied) copyLink(copied);
});
$("confirm").addEventListener("cancel", () => { declined = true; });

let newest = 0; // a later link takes the place of an earlier one
addEventListener("hashchange", () => { newest += 1; });

/** Pairs this device, if the person agrees. @param {string} words  a link, or the fragment of the address  @param {Keys} keys */
export async function pairDevice(words, keys) {
	newest += 1;
	const mine = newest;
	const fragment = words.slice(words.indexOf("#")).trim();
	const link = parseFragment(fragment);
	const trouble = link ? troubleBefore(words.trim(), link) : fragment === SENT ? INTERRUPTED : INCOMPLETE;
	if (trouble && trouble !== UNSIGNING) clearLink();
	say(trouble);
	if (!link || trouble) return;
	/** @type {HTMLInputElement} */ ($("secret")).value = "";
	await until(() => getState().key !== "sought", SOUGHT_MS);
	const isPaired = await agrees(link, () => mine === newest) && await fetchKey(link, keys);
	if (!isPaired && getState().unlocked) dispatch("look-due"); // because the page did not look at the VM while the question was open
}

/** @param {string} fragment  @returns {Link|null} */
function parseFragment(fragment) {
	const asked = new URLSearchParams(fragment.slice(1));
	const [, id, oneTimeKey] = /^([\w-]{16})\.([\w-]{22})$/.exec(asked.get("pair") ?? "") ?? [];
	const name = /^[\w.@-]{1,64}$/.exec(asked.get("as") ?? "")?.[0];
	return id && name ? { id, oneTimeKey, name } : null;
}

/** Returns why a link can't be used here, or an empty text. @param {string} words  @param {Link} link */
function troubleBefore(words, { id }) {
	if (!crypto.subtle) return UNSIGNING;
	if (isUsed(id)) return SPENT;
	const place = placeOf(words);
	return place === HOME.href ? "" : `This pairing link is for ${place}. Nothing was sent. Open the link there, or ask for a link for this address.`;
}

/** Returns the address for which a link was made, or this page's address if the link names none. @param {string} words */
function placeOf(words) {
	try {
		return new URL(".", words).href;
	} catch {
		return HOME.href;
	}
}

/** Whether a tab of this device has sent this id already. A second request would cause the key to be revoked. @param {string} id */
const isUsed = (id) => recall("local", "pair")?.id === id;

/** Asks the person, and asks again if the dialog was closed without an answer. @param {Link} link  @param {() => boolean} isNewest */
async function agrees(link, isNewest) {
	for (;;) {
		await until(() => !document.hidden);
		const question = await writeQuestion(link);
		if (!isNewest()) return false;
		declined = false;
		copied = isAppleTab() ? link : null;
		const yes = await askPerson(question);
		if (!isNewest()) return false;
		if (declined && !copied) clearLink();
		copied = null;
		if (yes || declined) return yes;
	}
}

/** @param {Link} link */
async function writeQuestion(link) {
	const keeps = await canKeep();
	const kept = recall("local", "key");
	const { as } = recall("local", "pair") ?? {};
	const old = kept ? `The key${as ? ` of ${as}` : ""} that is kept here since ${new Date(kept.since).toLocaleDateString("en-GB", { day: "numeric", month: "short" })}` : getState().unlocked ? "The key that this tab has now" : "";
	const inTab = isAppleTab();
	const why = $("may-keep").hidden ? "Keys are not kept at this address" : "This browser can’t store a key";
	return {
		title: `Pair this device as ${link.name}?`,
		facts: [
			...inTab ? [{ term: "First", words: "Add this page to the home screen, and paste the link into its key field: on an iPhone or iPad that app has its own storage" }] : [],
			{ term: "Does", words: `Fetches the signing key of ${link.name}, once${keeps ? ", and keeps it here" : ""}` },
			...keeps ? [] : [{ term: "But", words: `${why}: the key is gone when this tab closes, and the link is used up` }],
			...old ? [{ term: "Replaces", words: old }] : [],
		],
		yes: inTab ? "Pair here anyway" : "Pair this device",
		yesIcon: "key",
		keep: inTab ? "Copy link" : "Not now",
		danger: false,
	};
}

/** @param {Link} link */
async function copyLink({ id, oneTimeKey, name }) {
	try {
		await navigator.clipboard.writeText(`${HOME.href}#pair=${id}.${oneTimeKey}&as=${name}`);
		clearLink();
		say("Copied. Add this page to the home screen, open it there, and paste the link under “Signing key”.", true);
	} catch {
		say("Not copied. Copy this page’s address instead, and paste it under “Signing key” on the home screen’s page.");
	}
}

/** Whether this device can keep a key at this address. A database that answers late counts as able. */
const canKeep = async () => !$("may-keep").hidden && Promise.race([keyStore((store) => store.count()).then(() => true, () => false), sleep(STORE_MS).then(() => true)]);

/** Fetches, decrypts and keeps the key, with which the page then continues. Returns whether that worked. @param {Link} link  @param {Keys} keys */
async function fetchKey(link, keys) {
	const { id, name } = link;
	say(`Fetching the signing key of ${name}…`, true);
	await until(() => Boolean(getState().health.answer || getState().health.fails)); // a slow line
	const trouble = isUsed(id) ? SPENT : isAway(getState()) ? AWAY : ""; // another tab may have used the link meanwhile
	if (trouble !== AWAY) clearLink();
	if (trouble) say(trouble);
	if (trouble) return false;
	keep("local", "pair", { ...recall("local", "pair"), id });
	const rest = location.hash;
	showAddress(SENT);
	const sealed = await fetchSealed(id);
	const key = sealed && await openSealed(link, sealed, keys);
	if (key) await takePaired(key, name, rest, keys);
	else say(sealed === "" ? SPENT : sealed ? ALTERED : LOST);
	if (!key) showAddress(rest);
	return Boolean(key);
}

/** Asks the handler once. Returns the sealed key, an empty text if the handler has none, or null if no answer came. @param {string} id */
async function fetchSealed(id) {
	try {
		const response = await fetch("pair", {
			method: "POST", redirect: "error", cache: "no-store", headers: { "content-type": "application/json" },
			body: JSON.stringify({ id }), signal: AbortSignal.timeout(ANSWER_MS),
		});
		if ([404, 405].includes(response.status)) return "";
		const { sealed } = await response.json();
		return response.ok && typeof sealed === "string" && sealed ? sealed : null;
	} catch {
		return null;
	}
}

/** @param {string} text  in base64url */
const bytesOf = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));

/** Returns the signing key in a form that scripts can't read out, or null if this link does not decrypt it. @param {Link} link  @param {string} sealed  @param {Keys} keys */
async function openSealed({ id, oneTimeKey, name }, sealed, { importKey }) {
	try {
		const opener = await crypto.subtle.importKey("raw", bytesOf(oneTimeKey), "AES-GCM", false, ["decrypt"]);
		const bytes = bytesOf(sealed);
		const additionalData = new TextEncoder().encode(`breakglass-pair-v1:${id}:${name}`);
		const text = new Uint8Array(await crypto.subtle.decrypt({ name: "AES-GCM", iv: bytes.subarray(0, 12), additionalData }, opener, bytes.subarray(12)));
		const key = await importKey(new TextDecoder().decode(text));
		text.fill(0);
		return key;
	} catch {
		return null;
	}
}

/** Begins to use a key, and stores it in place of any other key, however late the database answers. @param {CryptoKey} key  @param {string} name  @param {string} rest  of the address  @param {Keys} keys */
async function takePaired(key, name, rest, { keepOrNot, takeKey }) {
	useKey(key);
	keepBox.checked = !$("may-keep").hidden;
	keep("local", "key", null); // forget what was known about the old key
	let storing = STORING;
	const stored = keepOrNot().then(() => { storing = ""; });
	await Promise.race([stored, sleep(STORE_MS)]);
	if (getState().unlocked) dispatch("locked"); // end the requests that use the previous key
	await takeKey(key);
	await until(() => getState().key !== "given", PROOF_MS);
	const report = () => {
		const state = getState().key;
		if (state === "refused" || !getState().unlocked) say(""); // the page shows the refusal beside the key field
		else if (keepBox.checked) say(`Paired as ${name}. ${state === "proved" ? PROVED : UNPROVED}${storing}`, true);
		else say(`Paired as ${name}, until this tab closes. The key is not kept here.`);
	};
	if (storing) report();
	await stored; // before this, a reload would say that the pairing was interrupted
	if (keepBox.checked) keep("local", "pair", { ...recall("local", "pair"), as: name });
	clearLink(rest);
	report();
}

/** @param {string} fragment */
const showAddress = (fragment) => history.replaceState(null, "", location.pathname + location.search + fragment);

/** Removes a pairing link from the address. @param {string} [rest]  the text that replaces the link */
function clearLink(rest = "") {
	if (location.hash.startsWith("#pair=")) showAddress(rest);
}

/** Returns when a test is true, or after a time. @param {() => boolean} test  @param {number} [ms]  @returns {Promise<void>} */
const until = (test, ms = 2 ** 31 - 1) => new Promise((resolve) => {
	const look = () => { if (test()) queueMicrotask(resolve); };
	setTimeout(resolve, ms);
	subscribe(look);
	look();
});

subscribe((state, was) => {
	if (was.unlocked && !state.unlocked) say("");
	if (state.key === "proved") setText(word, word.textContent?.replace(UNPROVED, PROVED));
});
document.addEventListener("visibilitychange", () => { if (document.hidden && word.style.color) say(""); });
