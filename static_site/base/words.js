// Words and times as a person reads them. Pure, because the caller passes the time and shows the words.

/** What a state asks of the person, in this order: nothing, to act, to take note, to wait, or to trust nothing that is shown.
 * @typedef {"good"|"bad"|"warn"|"busy"|"unknown"} Tone */

/** A verdict or a state in at most four words. @typedef {{words: string, tone: Tone, icon: string}} Phrase */

/** @type {Record<string, Phrase>} by verdict code, docs/api.md, "Verdict codes" */
export const VERDICTS = {
	__proto__: /** @type {any} */ (null), // an answer may say `constructor`
	healthy: { words: "Looks healthy", tone: "good", icon: "running" },
	"qemu-running": { words: "Not examined", tone: "unknown", icon: "unknown" },
	"guest-silent": { words: "Idle or hung", tone: "unknown", icon: "unknown" },
	"guest-alive": { words: "Kernel alive", tone: "unknown", icon: "running" },
	"guest-hung": { words: "Hung", tone: "bad", icon: "hung" },
	"heartbeat-lost": { words: "Heartbeat lost", tone: "bad", icon: "hung" },
	"guest-starved": { words: "Out of memory", tone: "bad", icon: "hung" },
	"guest-frozen": { words: "Hung: guest frozen", tone: "bad", icon: "hung" },
	"backup-starves": { words: "Backup starves it", tone: "bad", icon: "hung" },
	"disk-frozen": { words: "Hung: disk frozen", tone: "bad", icon: "hung" },
	"storage-hung": { words: "Hung: storage dead", tone: "bad", icon: "hung" },
	"qemu-wedged": { words: "QEMU hangs", tone: "bad", icon: "hung" },
	"qemu-io-error": { words: "Paused: disk error", tone: "bad", icon: "paused" },
	"qemu-paused": { words: "Paused", tone: "warn", icon: "paused" },
	"paused-locked": { words: "Paused: locked", tone: "warn", icon: "paused" },
	"in-transit": { words: "Being moved", tone: "warn", icon: "paused" },
	"qemu-internal-error": { words: "Stopped: QEMU error", tone: "bad", icon: "hung" },
	"qemu-guest-panicked": { words: "Kernel panic", tone: "bad", icon: "hung" },
	"qemu-watchdog": { words: "Watchdog stopped it", tone: "bad", icon: "hung" },
	"qemu-shutdown": { words: "Shut down, held", tone: "warn", icon: "stopped" },
	"qemu-suspended": { words: "Suspended", tone: "warn", icon: "paused" },
	"qemu-debug": { words: "In a debugger", tone: "warn", icon: "paused" },
	"qemu-stopped": { words: "Off", tone: "warn", icon: "stopped" },
	"stopped-locked": { words: "Off: locked", tone: "warn", icon: "stopped" },
	"other-node": { words: "On another node", tone: "warn", icon: "unknown" },
	"stale-copy": { words: "On two nodes", tone: "bad", icon: "hung" },
	container: { words: "It is a container", tone: "warn", icon: "unknown" },
	"wrong-vm": { words: "It is another VM", tone: "bad", icon: "unknown" },
	"ha-stuck": { words: "Off: HA holds it", tone: "bad", icon: "hung" },
	leftover: { words: "Off: process left", tone: "bad", icon: "stopped" },
	"pmxcfs-hung": { words: "Cluster files hang", tone: "bad", icon: "hung" },
	"pmxcfs-not-mounted": { words: "No cluster files", tone: "bad", icon: "hung" },
	"pmxcfs-dead": { words: "Cluster files dead", tone: "bad", icon: "hung" },
	"no-quorum": { words: "No quorum", tone: "bad", icon: "hung" },
	"no-config": { words: "No configuration", tone: "bad", icon: "unknown" },
	"place-unknown": { words: "Place not known", tone: "unknown", icon: "unknown" },
	"not-determined": { words: "Not known", tone: "unknown", icon: "unknown" },
};

/** @type {Record<string, [word: string, code?: string]>} by state: the second line, and the verdict code without evidence, if that code is not qemu-STATE */
const STATES = {
	__proto__: /** @type {any} */ (null),
	stopped: ["not running"],
	elsewhere: ["on another node", "other-node"],
	prelaunch: ["not begun", "qemu-paused"],
	"io-error": ["paused by a disk error"],
	wedged: ["does not answer"],
	unknown: ["not known", "not-determined"],
};

/** @type {Record<string, string>} by code of /health or of an error */
const TROUBLES = {
	__proto__: /** @type {any} */ (null),
	timeout: "no answer within 10 s",
	lost: "the connection broke before an answer came",
	"host-key-differs": "the host’s key changed, so nothing was sent",
	"key-not-accepted": "the host rejects Breakglass’s SSH key",
	disabled: "it is disabled by a configuration error",
	"claude-missing": "it is not installed",
	"claude-auth": "it is not signed in",
	"claude-crashed": "it crashed",
	"sandbox-missing": "its sandbox is missing",
	"sessions-unwritable": "its disk can’t be written to",
	"chat-not-isolated": "its sandbox can’t be set up",
	busy: "too many turns at once",
	failed: "it could not be loaded",
	starting: "it is not ready yet",
};

/** @type {Record<string, string>} what to do if Proxmox is out of reach, by code; without an entry, use the host's own console */
const DETOURS = {
	__proto__: /** @type {any} */ (null),
	"host-key-differs": "Another machine may answer instead of the host, or the host was reinstalled. Find out before you trust the new key.",
	disabled: "The person who runs Breakglass must correct that error.",
	"key-not-accepted": "Check authorized_keys on the host, or use the host’s own console.",
	"read-only-key": "Breakglass has a read-only key for this host, so it can't change power.",
	"not-allowed": "This VM is missing from the key's list on the host.",
};

/** @param {string} code  @returns {Phrase} */
export const phraseOf = (code) => VERDICTS[code] ?? { words: capital(code.replace("qemu-", "").replaceAll("-", " ")), tone: "warn", icon: "unknown" };
/** Whether a code describes the VM. An answer's other codes describe the outcome of a verb. @param {string} code */
export const isVerdict = (code) => code in VERDICTS;
/** The phrase for a state about which nothing more is known. @param {string} state */
export const phraseOfState = (state) => phraseOf(STATES[state]?.[1] ?? `qemu-${state}`);
/** @param {string} state */
export const stateWord = (state) => STATES[state]?.[0] ?? state.replaceAll("-", " ");
/** @param {string} code */
export const troubleOf = (code) => TROUBLES[code] ?? code.replace("claude-", "").replaceAll("-", " ");
/** @param {string} code */
export const detourOf = (code) => DETOURS[code] ?? "For now, use the host’s own console (IPMI).";

/** @param {string} words */
export const capital = (words) => words && words[0].toUpperCase() + words.slice(1);
/** @param {string | undefined} words */
export const sentence = (words = "") => capital(ended(words));
/** Adds a full stop to a sentence. The sentence is not capitalised, because it may begin with a caller's name. @param {string} words */
export const ended = (words) => words && `${words}${/[.!?…]$/.test(words) ? "" : "."}`;

export const MINUTE = 60_000;

let behind = 0;
/** Sets how far this device's clock is behind. The page shows each time by the host's clock, because all people on a rescue then see the same time. @param {number} ms */
export const setBehind = (ms) => { behind = ms; };
/** @param {number} when milliseconds of this device's clock */
export const hostDate = (when) => new Date(when + behind);
/** @param {number} when */
export const clock = (when) => hostDate(when).toLocaleTimeString("en-GB");
/** @param {number} when */
export const minute = (when) => clock(when).slice(0, 5);

/** Returns a duration in words. @param {number} ms */
export function span(ms) {
	const s = Math.round(Math.abs(ms) / 1000);
	const [unit, word] = s < 120 ? [1, "s"] : s < 7200 ? [60, "min"] : s < 172_800 ? [3600, "h"] : [86_400, "days"];
	return `${Math.round(s / unit)} ${word}`;
}

// Characters that could reorder a line or are invisible.
const UNSEEN = /[\p{Cf}\p{Zl}\p{Zp}\u3164]|[^\P{Cc}\t\n]/gu;
/** @param {string} c */
const spell = (c) => (c < " " ? String.fromCharCode(0x2400 + c.charCodeAt(0)) : `⟨U+${c.codePointAt(0)?.toString(16)}⟩`);
/** The text with every invisible character spelled out. @param {unknown} value */
export const visible = (value) => String(value || "").replaceAll("\r\n", "\n").replace(UNSEEN, spell);
