// The types of the page's state, and the first state.

/** A job of another caller that holds the VM.
 * @typedef {{job: string, verb: string, by: string, since: string, stage?: string, deadline: number}} Holder */
/** @typedef {{code: string, sentence: string, advice: string, evidence: string[], why?: string, fix?: {place: string, command: string}|null}} HostVerdict */
/** @typedef {HostVerdict & {state: string, last: string|null, from: string, at: number}} Verdict */
/** @typedef {{id: string, verb: string, by: string, why?: string, started: string, seconds?: number, outcome: string|null,
 *   stage?: string, verdict?: HostVerdict|null, output?: string, screen_png?: string|null, last_words?: string[], screen_text?: string[],
 *   seen?: {by: string, at: string}[], opinion?: {text: string, at: string}}} Job */
/** `rows`: the text on a console in text mode. @typedef {{png: string, started: string, at: number, last: string|null, live?: boolean, rows: string[]}} Picture */
/** @typedef {{state: string, at: string|null, says: string}} Heartbeat as a status reports it */
/** The watch over the guest after a verb that brings the VM up. `found`: how it ended. `started`: when the job began, by the host's clock.
 * `heard`: the last check without an answer of the guest's kernel. `back`: when the kernel answered first; with `most`, it may have answered earlier.
 * @typedef {{since: number, until: number, on: boolean, verb: string, seconds: number, started: number, heard: number,
 *   back: {ms: number, most: boolean}|null, was: string, fell: string, found: ""|"guest"|"nothing"|"stopped"|"fallen"|"unseen"}} Watch `was`: the state before the watch. `fell`: the state that ended the watch. */
/** A verb that failed, and the commands that may help. @typedef {{verb: string, cause: string, last: string|null, lines: string[], cures: {place: string, command: string}[]}} Failed */

/** What is known of one VM. `open` is the mutating job whose outcome is not known. `acting` and `reading` tell which kind of verb is under way.
 * @typedef {object} View
 * @property {string} vm @property {string} named its name on Proxmox, empty if it is not known
 * @property {string} phase @property {string} verb @property {number} since
 * @property {string} sentence @property {string} hint @property {string[]} lines @property {import("../vm/headline.js").Cure[]} cures @property {string} url
 * @property {string} offer @property {Holder|null} holder
 * @property {{id: string, verb: string}|null} open @property {boolean} acting @property {string} reading
 * @property {{name: string, at: number}[]} stages in the order of their arrival, some twice @property {{started: number, seconds: number}|null} deadline
 * @property {{state: string, last: string|null, at: number, holder: Holder|null}|null} seen
 * @property {Verdict|null} verdict @property {number} lookedAt @property {boolean} mayLook @property {boolean} looking whether the page is looking for evidence
 * @property {Heartbeat|null} heartbeat @property {boolean} beats whether the guest ever had a heartbeat
 * @property {Picture|null} picture @property {import("./rescue.js").Rescue|null} rescue @property {boolean} waiting @property {Watch|null} watch @property {Failed|null} failure
 * @property {Job[]|null} jobs @property {string} jobsTrouble @property {string} chain
 * @property {{title: string, text: string}} output @property {{lines: string[], at: number}|null} words the end of the guest's kernel log
 * @property {string} trouble @property {string} note @property {string[]} warnings @property {string[]} byHand
 * @property {{at?: string, how?: string, seen: number}|null} proven
 * @property {Record<string, boolean>} sent @property {number} triedAt @property {number} lockedSince
 * @property {{words: string, at: number}|null} nudge */

/** `host`: where the VM was last seen. @typedef {{name: string, vmid: number|null, host?: string|null, proxmox: string, since: string|null}} VmHealth */
/** `key`: whether there is a signing key, and what an answer said of that key. `newPage`: whether the device has a newer page.
 * @typedef {object} State
 * @property {"sought"|"none"|"given"|"proved"|"refused"|"revoked"} key @property {boolean} keyWasGood whether an answer has ever accepted the key
 * @property {string} leftOpen the verb whose outcome was not known when its key was refused @property {boolean} unlocked @property {string} vm @property {string} tab @property {number} clockOff @property {string} unknownVm
 * @property {boolean} newPage
 * @property {{vms: VmHealth[], answer: any, fails: number, downSince: number, at: number, next: number, slow: boolean}} health
 * @property {Record<string, View>} views @property {Record<string, import("./conversation.js").Chat>} chats @property {number} opened how many conversations were opened
 * @property {{list: import("./conversation.js").Talk[], none: string}|null} talks the earlier conversations, while they are shown
 * @property {Record<string, import("./conversation.js").Proposal>} proposals by the id of the job that an approval begins */
/** @typedef {{type: string, at: number, vm?: string, [more: string]: any}} Event_ */

/** @param {string} vm  @param {Partial<View>} kept what this device has stored about the VM  @returns {View} */
export const newView = (vm, kept = {}) => ({
	vm, named: "", phase: "idle", verb: "status", since: 0, sentence: "", hint: "", lines: [], cures: [], url: "", offer: "", holder: null,
	open: null, acting: false, reading: "", stages: [], deadline: null,
	seen: null, verdict: null, lookedAt: 0, mayLook: true, looking: false, picture: null, rescue: null, words: null, waiting: false, watch: null,
	heartbeat: null, beats: false, failure: null,
	jobs: null, jobsTrouble: "", chain: "", output: { title: "", text: "" },
	trouble: "", note: "", warnings: [], byHand: [], proven: null, sent: {}, triedAt: 0, lockedSince: Infinity, nudge: null,
	...kept,
});

/** @returns {State} */
export const newState = () => ({
	key: "sought", keyWasGood: false, leftOpen: "", unlocked: false, vm: "", tab: "vm", clockOff: 0, unknownVm: "", newPage: false,
	health: { vms: [], answer: null, fails: 0, downSince: 0, at: 0, next: 0, slow: false },
	views: {}, chats: {}, opened: 0, talks: null, proposals: {},
});
