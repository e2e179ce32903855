// The conversation with Claude, one for each VM. A stream without its last line is no answer.

import { endingOf, failureOf } from "./chat_errors.js";
import { drawEvent, readChat } from "./chat_log.js";
import { showTalks, takeDraft } from "./chat_view.js";
import { LIMIT_USD, allChats, changed, chatOf, clearChats, newChat, remind, scrollToEnd, setChat, whyNot } from "./chats.js";
import { $, followEnd, setText } from "./dom.js";
import { forgetProposals, proposalOf } from "./proposals.js";
import { newId, post, sleep, young } from "./send.js";
import { OWN } from "./storage.js";
import { subscribe } from "./store.js";
import { Turn } from "./turn.js";

export { editPrompt, renderChat, showTalks, takeDraft } from "./chat_view.js";
export { chatOf, scrollToEnd } from "./chats.js";
export { proposalObstacle } from "./proposals.js";
export { noteProposal } from "./turn.js";

/** @typedef {import("./chats.js").Chat} Chat */

const RECAP = 40_000; // characters; a body ends at 256 KiB
const CHECK = "The operator approved your proposal, and the verb has ended. Check the VM, and say in a few sentences how it is now.";

/** Takes up the turn that was under way before a reload. */
export function resumeChat() {
	const chat = chatOf();
	if (!chat.cut || chat.cut.body || chat.turn) return;
	if (chat.log === "unread") readChat(chat);
	else if (chat.log === "read") askForRest();
}

/** Stops listening to every turn: no turn is ended by it. */
export function dropChats() {
	clearChats();
	forgetProposals();
}

/** Shows another conversation about a VM; without a token, a new one. @param {string} vm  @param {string} [session]  @param {string} [id] */
export function openTalk(vm, session, id) {
	const before = chatOf(vm);
	showTalks(false);
	if (session && id === before.id) { // shown already, but it may have gone on elsewhere
		if (session !== before.session && !before.turn && before.log !== "reading") Object.assign(before, { session, log: "unread" });
		return changed(before);
	}
	before.flight?.abort();
	const draft = takeDraft(before);
	const chat = { ...newChat(vm, { session, id }), draft };
	setChat(chat);
	remind(chat);
	changed(chat);
}

/** Sends what is written, or `words`; with `recap`, to a new conversation, in which Claude is told what was said. @param {boolean} [recap]  @param {string} [words] */
export function sendPrompt(recap = false, words = "") {
	const chat = chatOf();
	const prompt = /** @type {HTMLTextAreaElement} */ ($("prompt"));
	const question = words || prompt.value.trim() || (recap ? "Go on." : "");
	if (!question || whyNot(chat)) return;
	const earlier = chat.turns.filter((turn) => turn.answer).map((turn) => `Operator: ${turn.prompt}\nYou: ${turn.answer}`).join("\n\n");
	const told = recap ? `The earlier conversation was lost. Said so far:\n\n${earlier.slice(-RECAP)}\n\nNow: ${question}` : question;
	if (recap) Object.assign(chat, { session: undefined, id: undefined });
	if (!words) prompt.value = "";
	const turn = new Turn(newId(), question, JSON.stringify({ prompt: told, vm: chat.vm || undefined, session: chat.session }));
	turn.recap = recap;
	begin(chat, turn);
}

/** What the page sends by itself moves nothing that a person reads. @param {Chat} chat  @param {Turn} turn  @param {boolean} [isPressed] */
function begin(chat, turn, isPressed = true) {
	Object.assign(chat, { failure: {}, check: turn.own ? chat.check : null });
	const scroll = isPressed ? () => scrollToEnd(chat) : followEnd($("transcript"));
	if (isPressed) showTalks(false);
	follow(chat, turn);
	scroll();
}

/** A verb ended: if it was proposed in the conversation that is shown, Claude is told. @param {string} vm  @param {string} job */
export async function verbEnded(vm, job) {
	const chat = chatOf(vm);
	if (chat.log !== "read") await readChat(chat);
	if (proposalOf(job)?.talk !== chat) return;
	chat.check = { job, byHand: false };
	letClaudeCheck(chat);
}

/** Sends the turn that follows an approved verb: by itself once for each, while the conversation is cheap; else at a press.
 * @param {Chat} chat  @param {boolean} [isPressed] */
export function letClaudeCheck(chat = chatOf(), isPressed = false) {
	const { check, session } = chat;
	if (!check || !session || whyNot(chat)) return;
	const id = isPressed ? newId() : `msg-after-${check.job}`.slice(0, 64); // the same from two tabs: it is one turn
	if (!isPressed && chat.turns.some((turn) => turn.id === id)) chat.check = null;
	else if (isPressed || (!check.byHand && chat.log === "read" && chat.cost < LIMIT_USD)) {
		check.byHand = true;
		return begin(chat, new Turn(id, CHECK, JSON.stringify({ prompt: CHECK, vm: chat.vm || undefined, session, tools: "host" }), true), isPressed);
	}
	changed(chat);
}

/** Asks for the rest of a turn that was cut off, or for what was said before. */
export function askForRest() {
	const chat = chatOf();
	if (chat.log === "failed") readChat(chat);
	else if (chat.log === "read" && chat.cut && !chat.turn) follow(chat, chat.cut);
}

/** The body starts the turn or joins it; once anything of it was seen, `attach` is sent, which starts nothing.
 * @param {Chat} chat  @param {Turn} turn */
async function follow(chat, turn) {
	turn.end();
	chat.box.append(turn.element);
	const flight = new AbortController();
	chat.flight = flight;
	Object.assign(chat, { turn, cut: null, word: "Claude is working…" });
	remind(chat);
	changed(chat);
	turn.at = Date.now();
	for (let pause = 1_000; ; pause = Math.min(2 * pause, 8_000)) {
		const seen = turn.n;
		const attach = JSON.stringify({ attach: turn.id, after: seen || undefined, session: chat.session });
		const [id, body] = seen || !turn.body ? [newId(), attach] : [turn.id, turn.body];
		const answer = await post("chat", id, body, flight.signal, (event) => take(chat, turn, event));
		if (flight.signal.aborted) return;
		if (turn.done) break;
		const error = answer?.error;
		if (error?.code === "id-reused" && turn.own && turn.body) {
			turn.body = undefined; // another tab sent it first, with another token
			continue;
		}
		if (error?.code && error.code !== "shutting-down") {
			failed(chat, turn, error);
			break;
		}
		if (turn.n > seen) pause = 1_000;
		if (!young(turn)) {
			turn.end("Cut off: the connection was lost; this is not the whole answer.");
			Object.assign(chat, { turn: null, cut: turn });
			return changed(chat);
		}
		say(chat, "The connection was lost; asking for the rest…");
		await sleep(pause, flight.signal);
	}
	chat.turn = null;
	chat.turns.push(turn);
	remind(chat);
	changed(chat);
	letClaudeCheck(chat);
}

/** @param {Chat} chat  @param {Turn} turn  @param {any} event */
function take(chat, turn, event) {
	if (event.type === "ping" || event.n <= turn.n) return; // seen before the drop
	turn.at = Date.now();
	const scroll = followEnd($("transcript"));
	const drawn = drawEvent(chat, turn, event);
	if (event.type === "tool") say(chat, `Claude is working: running ${drawn}`);
	else if (event.type === "session" && event.session) {
		Object.assign(chat, { session: event.session, id: event.id });
		remind(chat);
	} else if (event.type === "error") failed(chat, turn, event);
	else if (event.type === "done") {
		if (event.ok) Object.assign(chat, { answered: true, failure: {}, check: turn.own ? null : chat.check });
		say(chat, event.ok ? turn.spoken || "Claude ended without an answer." : chat.failure.notice || "Stopped.");
	}
	scroll();
}

/** @param {Chat} chat  @param {Turn} turn  @param {any} error */
function failed(chat, turn, error) {
	turn.end(endingOf(error));
	if (error.code === "cancelled") return;
	if (error.code !== "turn-unknown") chat.failure = failureOf(error, turn.recap);
	chat.answered &&= !chat.failure.trouble;
	if (!turn.answer && !turn.own) takeDraft(chat, turn.prompt);
}

/** Ends the turn that is under way. */
export async function stopTurn() {
	const chat = chatOf();
	const { turn, flight } = chat;
	if (!turn || !flight) return;
	say(chat, "Stopping…");
	for (;;) {
		const { n } = turn;
		const answer = await post("chat", newId(), JSON.stringify({ cancel: turn.id, session: chat.session }), flight.signal);
		if (answer?.cancelled || chat.turn !== turn) return;
		const { code, message = "no answer came back" } = answer?.error ?? {};
		if (code !== "turn-unknown" || n) return say(chat, `Not stopped: ${message}. Press Stop again.`);
		await sleep(500, flight.signal); // the turn is still on its way there
	}
}

/** What a screen reader hears; the transcript is silent. @param {Chat} chat  @param {string} words */
function say(chat, words) {
	chat.word = words;
	if (chat === chatOf()) setText($("chat-live"), words.slice(0, 4_000));
	changed(chat);
}

subscribe((_, __, { type, vm }) => {
	if (type !== "chat-read") return;
	const chat = chatOf(vm);
	if (chat.cut) follow(chat, chat.cut);
	else letClaudeCheck(chat);
});
// Another tab went on in the same conversation: what was said there is read again.
addEventListener("storage", ({ key, newValue }) => {
	const chat = allChats().find(({ vm }) => key === `${OWN}chat ${vm}`);
	const kept = JSON.parse(newValue ?? "null");
	if (!chat || !kept?.session || kept.session === chat.session || chat.turn || chat.log === "reading") return;
	if (chat.id !== kept.id) return; // it is another one
	Object.assign(chat, { session: kept.session, log: "unread" });
	changed(chat);
});
