// The verbs, as they are offered, asked about and waited for. A test holds this table to handler/verbs.py.

/** `pointless`: the state in which it makes no sense. `stages`: what its bar shows; `takes`: how long, in words.
 * @typedef {{label: string, icon: string, doing?: string, does?: string, costs?: string, takes?: string,
 *   pointless?: string, stages?: string[]}} Verb */

/** @type {Record<string, Verb>} */
export const VERBS = {
	__proto__: /** @type {any} */ (null),
	cycle: {
		label: "Power-cycle", icon: "cycle", doing: "power-cycling", stages: ["forensics", "stop", "start", "verify"],
		does: "Power cord out and in", costs: "Unsaved work in the VM", takes: "Seconds; at most 7 min",
	},
	reset: {
		label: "Reset", icon: "reset", doing: "resetting", stages: ["forensics", "reset", "verify"], pointless: "stopped",
		does: "Presses the reset button", costs: "Unsaved work in the VM", takes: "Seconds",
	},
	start: {
		label: "Start", icon: "start", doing: "starting", stages: ["forensics", "start", "verify"], pointless: "running",
		does: "Starts it, or continues it", costs: "Nothing", takes: "Seconds; at most 3 min",
	},
	stop: {
		label: "Stop", icon: "stop", doing: "stopping", stages: ["forensics", "stop", "verify"], pointless: "stopped",
		does: "Pulls the power cord; it stays off", costs: "Unsaved work in the VM", takes: "Seconds; at most 4 min",
	},
	forensics: { label: "Collect evidence", icon: "evidence" },
	status: { label: "Check status", icon: "look" },
	screen: { label: "Live picture", icon: "look" },
	history: { label: "History", icon: "history" },
};

/** What it can cost to lift a refusal, by its code. @type {Record<string, string>} */
export const ANYWAY = {
	__proto__: /** @type {any} */ (null), // an answer may say `constructor`
	"storage-hung": "QEMU may be unable to end until its storage answers; the VM cannot start before then.",
	"would-not-start": "The VM may stay off until Proxmox can start it.",
};

/** As they stand on the page: no verb ever changes its place. */
export const POWER = ["cycle", "reset", "start", "stop"];

/** A stage's name, and how many seconds it usually ends within. Its deadline is longer (agents/pve/host/times.py).
 * @type {Record<string, {label: string, limit: number}>} */
export const STAGES = {
	__proto__: /** @type {any} */ (null),
	forensics: { label: "Evidence", limit: 20 },
	stop: { label: "Stop", limit: 75 },
	start: { label: "Start", limit: 90 },
	reset: { label: "Reset", limit: 10 },
	verify: { label: "Check", limit: 60 },
	back: { label: "Back", limit: 90 },
};

/** @param {string} verb */
export const labelOf = (verb) => VERBS[verb]?.label ?? verb;
/** Whether a verb changes power. @param {string} verb */
export const mutates = (verb) => VERBS[verb]?.does !== undefined;
/** Whether the VM comes up by it, so that there is something to watch. @param {string} verb */
export const bringsUp = (verb) => ["start", "reset", "cycle"].includes(verb);
