// The conversation with Claude about one VM, and how each event changes the conversation. Pure.

import { clock } from "../base/words.js";
import { labelOf } from "./verbs.js";

/** A question and its answer. `own`: the page sent the question by itself. `recap`: Claude gets the text of the earlier conversation. `began`: when the turn began, by this device's clock.
 * @typedef {{id: string, prompt: string, own: boolean, began: number, body?: string, recap?: boolean, answer?: string}} Turn */
/** @typedef {{notice?: string, trouble?: string, lost?: boolean}} Failure */
/** `number`: unique to the conversation. `turn` is under way. `cut` was under way, and the rest of its answer can be requested. `log`: whether the earlier
 * conversation is drawn. `check`: a verb that has ended without Claude's knowledge; with `byHand`, a person must have Claude check. `draft`: the
 * unsent text while another VM is shown.
 * @typedef {{number: number, session: string|undefined, id: string|undefined, turns: Turn[], turn: Turn|null, cut: Turn|null,
 *   draft: string, failure: Failure, word: string, log: "unread"|"reading"|"failed"|"read", cost: number,
 *   check: {job: string, byHand: boolean}|null}} Chat */
/** An earlier conversation, from the handler's list. @typedef {{id: string, vm: string, words: string, at: string, session: string, turn: string|null}} Talk */
/** The part of a conversation that the device stores. @typedef {{session?: string, id?: string, turn?: Turn|null}} Kept */
/** `status`: "held" while the page does not know whether the proposal was approved, "unsure" if the page can't know that, "spent" if the proposal's id can't act any more.
 * `talk`: the number of its conversation. `at`: when its turn began, by this device's clock. `last`: the VM's last job as
 * Claude saw it. After another job, the proposal is spent.
 * @typedef {{vm: string, verb: string, at: number, last: string, talk: number, words: string, status: "held"|"unsure"|"open"|"spent"}} Proposal */

/** @typedef {import("./shape.js").State} State */

export const LIMIT_USD = 1; // from this cost of a conversation on, Claude does not check by itself
const DAY_MS = 86_400_000; // a host forgets an id after one to two days, so an older id could act twice
export const TOO_OLD = "Too old to approve. Ask Claude again.";

/** @param {number} number  @param {Kept} kept  @param {string} draft  @returns {Chat} */
export const newChat = (number, { session, id, turn }, draft = "") => ({
	number, session, id, turns: [], turn: null, cut: turn ? { ...turn, began: turn.began ?? 0 } : null, // without a known beginning, a proposal counts as too old
	draft, failure: {}, word: "", log: session ? "unread" : "read", cost: 0, check: null,
});

/** Returns the part of a conversation that the page stores for a reload. @param {Chat} chat  @returns {Kept|null} */
export function keptOf({ session, id, turn, cut }) {
	const open = turn ?? cut;
	return session || open ? { session, id, turn: open && { id: open.id, prompt: open.prompt, own: open.own, began: open.began } } : null;
}

/** @type {Record<string, (chat: Chat, event: any) => Chat>} the events that change the conversation about one VM */
export const OF_CHAT = {
	"draft-left": (chat, { words }) => ({ ...chat, draft: words }),
	"turn-begun": (chat, { turn }) => ({
		...chat, turn, cut: null, failure: {}, word: "Claude is working…",
		check: turn.own ? chat.check && { ...chat.check, byHand: true } : turn === chat.cut ? chat.check : null,
	}),
	"turn-said": (chat, { words }) => ({ ...chat, word: words }),
	"turn-cost": (chat, { usd }) => ({ ...chat, cost: chat.cost + usd }),
	"turn-failed": (chat, { failure, words }) => ({ ...chat, failure: failure ?? chat.failure, draft: chat.draft || words }),
	"turn-cut": (chat) => ({ ...chat, turn: null, cut: chat.turn }),
	"turn-ended": (chat, { turn, ok, answer }) => ({
		...chat, turn: null, turns: [...chat.turns, { ...turn, answer }],
		...(ok && { failure: {}, check: turn.own ? null : chat.check }),
	}),
	"session-came": (chat, { session, id }) => ({ ...chat, session, id }),
	"session-moved": (chat, { session }) => ({ ...chat, session, log: "unread" }),
	"log-asked": (chat) => ({ ...chat, log: "reading", failure: {} }),
	"log-came": (chat, { log }) => ({ ...chat, ...log, log: "read" }),
	"log-lost": (chat, { notice }) => ({ ...chat, log: "failed", failure: { notice } }),
	"log-over": (chat, { notice }) => ({ ...chat, log: "read", failure: { notice }, session: undefined, id: undefined, cut: null }),
	"check-due": (chat, { check }) => ({ ...chat, check }),
};

/** Whether a proposal is too old to be approved. A proposal without a last job comes from an earlier version. @param {{at: number, last: string}} proposal  @param {number} now */
export const isOldProposal = ({ at, last }, now) => !last || Math.abs(now - at) >= DAY_MS;

/** Returns the job that has changed the VM's power after a proposal was made, if the history shows one.
 * @param {State} state  @param {string} id  @returns {import("./shape.js").Job|undefined} */
function actSince({ views, proposals }, id) {
	const { vm, last } = proposals[id];
	const { seen, jobs } = views[vm] ?? {};
	const place = jobs?.findIndex((job) => job.id === last) ?? -1;
	const since = last === "none" ? jobs : jobs?.slice(0, Math.max(0, place)); // the newest jobs come first
	const act = since?.find((job) => job.id === seen?.last);
	return act?.id === id ? undefined : act;
}

/** Ends the proposals that were made when the VM was in another state. @param {State} state  @returns {State} */
export function spendProposals(state) {
	/** @type {State["proposals"]} */
	const spent = {};
	for (const [id, proposal] of Object.entries(state.proposals)) {
		const act = proposal.status === "spent" ? undefined : actSince(state, id);
		if (act) spent[id] = { ...proposal, status: "spent", words: `Spent: ${labelOf(act.verb).toLowerCase()} at ${clock(Date.parse(act.started) - state.clockOff)} by ${act.by}. Ask Claude again.` };
	}
	return Object.keys(spent).length ? { ...state, proposals: { ...state.proposals, ...spent } } : state;
}

/** Returns why a proposal can't be approved now, or an empty text. @param {State} state  @param {string} job  @param {number} now */
export function proposalObstacle({ proposals }, job, now) {
	const proposal = proposals[job];
	if (!proposal) return "";
	if (isOldProposal(proposal, now)) return TOO_OLD;
	return proposal.status === "open" ? "" : "Checking whether this proposal was used. Try again in a moment.";
}

/** Changes a proposal's status and words. A proposal from before the page was loaded can't act any more. @param {State} state  @param {any} event  @returns {State} */
function noteProposal(state, { at, job, words, status }) {
	const known = state.proposals[job];
	if (!known) return state;
	const next = { ...known, words, status: isOldProposal(known, at) ? "spent" : status || known.status };
	return { ...state, proposals: { ...state.proposals, [job]: next } };
}

/** @type {Record<string, (state: State, event: any) => State>} */
export const OF_CHATS = {
	"talks-came": (state, { talks }) => ({ ...state, talks }),
	"chat-opened": ({ opened, chats, ...state }, { vm, kept }) => ({
		...state, opened: opened + 1, chats: { ...chats, [vm]: newChat(opened, kept, chats[vm]?.draft) },
	}),
	"proposal-came": (state, { job, proposal }) => ({ ...state, proposals: { ...state.proposals, [job]: { words: "", ...proposal } } }),
	"proposal-pressed": noteProposal,
	"proposal-noted": noteProposal,
};
