// Words for people, and the only ways onto the page: as text, never as markup.

// The one state machine.
export const PHASES = {
	locked: ["□", "", "Locked.", "Enter the signing key."],
	idle: ["●", "good", "Ready.", ""],
	checking: ["◌", "", "{label}:", "asking…"],
	running: ["◐", "warn", "{label} sent.", ""],
	done: ["✓", "good", "{label} done", ""],
	notSent: ["○", "warn", "Nothing was sent:", ""],
	refused: ["◇", "warn", "Nothing was changed:", ""],
	busy: ["◑", "warn", "Busy:", ""],
	failed: ["▲", "bad", "{label} failed:", ""],
	unknown: ["?", "warn", "No answer.", "The {what} may have happened; asking the host…"],
	disconnected: ["✕", "bad", "Handler not answering", ""],
};

// QEMU's words, for people.
const STATES = {
	running: ["●", "good", "Running"],
	stopped: ["○", "", "Stopped"],
	paused: ["‖", "warn", "Paused"],
	prelaunch: ["‖", "warn", "Not begun (prelaunch)"],
	"io-error": ["▲", "bad", "Paused by a disk error"],
	"guest-panicked": ["▲", "bad", "Guest panicked"],
	"internal-error": ["▲", "bad", "QEMU internal error"],
	wedged: ["▲", "bad", "Wedged: QEMU does not answer"],
	unknown: ["?", "warn", "Not known"],
};
export const stateOf = (state) => (Object.hasOwn(STATES, state) ? STATES[state] : ["◆", "warn", state]);

// What is wrong, where its code does not say it by itself.
const TROUBLE = {
	refused: "the connection was refused",
	timeout: "no answer within 10 s",
	"host-key-differs": "its host key changed, so nothing was sent",
	"config-error": "its configuration has a fault, so it is off",
	"claude-missing": "it is not installed",
	"claude-auth": "it is not signed in",
	"chat-not-isolated": "it is not isolated from the handler’s secrets",
	busy: "too many turns at once",
};
export const trouble = (code) => (Object.hasOwn(TROUBLE, code) ? TROUBLE[code] : code.replace("claude-", "").replaceAll("-", " "));

export const clock = (when) => new Date(when).toLocaleTimeString("en-GB");
export const minute = (when) => clock(when).slice(0, 5);

export function age(at) {
	const s = Math.max(0, Math.round((Date.now() - at) / 1000));
	const [unit, word] = s < 120 ? [1, "s"] : s < 7200 ? [60, "min"] : s < 172_800 ? [3600, "h"] : [86_400, "days"];
	return `${Math.round(s / unit)} ${word}`;
}

export function sleep(ms, signal) {
	return new Promise((resolve) => {
		setTimeout(resolve, ms);
		signal.addEventListener("abort", resolve, { once: true });
	});
}

export const $ = (id) => document.getElementById(id);

// What could reorder a line or hide in it is shown as a sign.
const UNSEEN = /[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
const spell = (c) => (c < " " ? String.fromCharCode(0x2400 + c.charCodeAt(0)) : `⟨U+${c.charCodeAt(0).toString(16)}⟩`);
const visible = (value) => String(value ?? "").replaceAll("\r\n", "\n").replace(UNSEEN, spell);

export function put(element, value) {
	const shown = visible(value);
	if (element.textContent !== shown) element.textContent = shown; // else a live region would speak
}
export const text = (words) => Object.entries(words).forEach(([id, value]) => put($(id), value));
export const show = (wanted) => Object.entries(wanted).forEach(([id, shown]) => { $(id).hidden = !shown; });

export function make(tag, words = "", className = "", ...children) {
	const element = document.createElement(tag);
	if (className) element.className = className;
	if (words) element.append(visible(words));
	element.append(...children);
	return element;
}

export function list(element, values) {
	if (element.textContent === values.map(visible).join("")) return;
	element.replaceChildren(...values.map((value) => make("li", "", "", make("code", value))));
}

// Text that grows, in pieces: a browser lays a whole block out again for each word added. Returns the new nodes.
export function grow(box, more) {
	return (visible(more).match(/[^]{0,4000}\n|[^]{1,4000}/gu) ?? []).map((part) => {
		let piece = box.lastElementChild;
		if (!piece || piece.full) piece = box.appendChild(make("div", "", "piece"));
		piece.size = (piece.size ?? 0) + part.length;
		piece.full = piece.size > 40_000 || (piece.size > 4_000 && part.endsWith("\n"));
		return piece.appendChild(document.createTextNode(part));
	});
}

// Stay at the end of a box.
export function following(box) {
	const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
	return () => atEnd && requestAnimationFrame(() => box.scrollTo(0, box.scrollHeight));
}

export function pre(words) {
	const box = make("pre");
	box.tabIndex = 0;
	grow(box, words);
	return box;
}
