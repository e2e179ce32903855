// The words with which the page offers the verbs, asks about them and waits for them. An answer may name `constructor` as a code or a verb.

/** `stages`: the stages in the verb's bar. `takes`: the time that the verb takes, in words.
 * @typedef {{label: string, does?: string, costs?: string, takes?: string, stages?: string[]}} Verb */

// ---- written by ./dev generate from agents/pve/words.py

/** @type {Record<string, Verb>} */
export const VERBS = {
	__proto__: /** @type {any} */ (null),
	"cycle": {"label": "Power-cycle", "does": "Power cord out and in", "costs": "Unsaved work in the VM", "takes": "Seconds; at most 7 min", "stages": ["forensics", "stop", "start", "verify"]},
	"reset": {"label": "Reset", "does": "Presses the reset button", "costs": "Unsaved work in the VM", "takes": "Seconds", "stages": ["forensics", "reset", "verify"]},
	"start": {"label": "Start", "does": "Starts the VM, or continues a paused one", "costs": "Nothing", "takes": "Seconds; at most 3 min", "stages": ["forensics", "start", "verify"]},
	"stop": {"label": "Stop", "does": "Pulls the power cord; the VM stays off", "costs": "Unsaved work in the VM", "takes": "Seconds; at most 4 min", "stages": ["forensics", "stop", "verify"]},
	"status": {"label": "Check status"},
	"forensics": {"label": "Collect evidence"},
	"history": {"label": "History"},
	"screen": {"label": "Live picture"},
	"states": {"label": "All states"},
};

/** The possible cost of overriding each refusal, by its code. @type {Record<string, string>} */
export const ANYWAY = {
	__proto__: /** @type {any} */ (null),
	"storage-hung": "QEMU may be unable to end until its storage answers; the VM cannot start before then.",
	"would-not-start": "The VM may stay off until Proxmox can start it.",
};

/** The power verbs in their order on the page, which never changes. */
export const POWER = ["cycle", "reset", "start", "stop"];

// ---- end

/** The name of each stage, and the seconds within which it usually ends. The stage's deadline is longer (agents/pve/budget.py).
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

/** The participle of each verb that changes power, for use after "is" or "has been". @type {Record<string, string>} */
export const DOING = {
	__proto__: /** @type {any} */ (null),
	cycle: "power-cycling", reset: "resetting", start: "starting", stop: "stopping",
};

/** @param {string} verb */
export const labelOf = (verb) => VERBS[verb]?.label ?? verb;
/** Whether a verb changes power. @param {string} verb */
export const mutates = (verb) => VERBS[verb]?.does !== undefined;
/** Whether the verb brings the VM up, so that the guest's return can be watched. @param {string} verb */
export const bringsUp = (verb) => ["start", "reset", "cycle"].includes(verb);
