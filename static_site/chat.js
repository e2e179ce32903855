// The conversation with Claude, one for each VM. A stream without its last line is no answer.

import { $, followEnd, make, setShown, setText, setTexts } from "./dom.js";
import { chatDown } from "./rules.js";
import { newId, post, sleep, young } from "./send.js";
import { keep, recall } from "./storage.js";
import { dispatch, getState } from "./store.js";
import { Turn } from "./turn.js";
import { minute, sentence, troubleOf } from "./words.js";

export { noteProposal } from "./turn.js";

const RECAP = 40_000; // characters; a body ends at 256 KiB
/** @type {Record<string, string>} what a person at the page can do, where the answer's hint is for a program */
const HINTS = {
	__proto__: /** @type {any} */ (null),
	"session-lost": "Start a new session: it is told what was said",
	"session-invalid": "Start a new session: it is told what was said",
	"session-elsewhere": "Start a new session: it is told what was said",
};
const CALM = "The power buttons do not need it.";
const DRAWN = /** @type {const} */ (["text", "tool_result", "approval", "result"]);

/** The conversation about one VM. `turn` is under way; `cut` was, and its rest can be asked for.
 * @typedef {{notice?: string, trouble?: string, lost?: boolean, since?: number}} Failure */
/** @typedef {{vm: string, session: string|undefined, turns: Turn[], turn: Turn|null, cut: Turn|null, box: HTMLElement, draft: string,
 *   failure: Failure, answered: boolean, word: string, flight: AbortController|null}} Chat */

/** @type {Map<string, Chat>} */
const chats = new Map();
/** @type {Chat|undefined} the one in the page */
let shown;
const prompt = /** @type {HTMLTextAreaElement} */ ($("prompt"));

/** @param {string} vm */
function chatOf(vm = getState().vm) {
	const known = chats.get(vm) ?? newChat(vm);
	chats.set(vm, known);
	return known;
}

/** @param {string} vm  @returns {Chat} */
function newChat(vm) {
	const { session, turn } = recall("session", `chat ${vm}`) ?? {};
	const cut = turn ? new Turn(turn.id, turn.prompt) : null;
	return { vm, session, turns: [], turn: null, cut, box: make("div"), draft: "", failure: {}, answered: false, word: "", flight: null };
}

/** Keeps what a reload needs. @param {Chat} chat */
function remind({ vm, session, turn }) {
	keep("session", `chat ${vm}`, { session, turn: turn && { id: turn.id, prompt: turn.prompt } });
}

/** Says to the rest of the page how Claude is. @param {Chat} chat */
function changed({ vm, failure: { trouble, since }, answered }) {
	dispatch("claude-heard", { vm, claude: { trouble: trouble ?? "", since: since ?? 0, answered } });
}

/** Takes up the turn that was under way before a reload. */
export function resumeChat() {
	const { cut } = chatOf();
	if (cut && !cut.body) askForRest();
}

/** Stops listening to every turn: no turn is ended by it. */
export function dropChats() {
	for (const chat of chats.values()) chat.flight?.abort();
	chats.clear();
}

/** Sends what is written; with `recap`, to a new session that is told what was said. @param {boolean} [recap] */
export function sendPrompt(recap = false) {
	const chat = chatOf();
	const question = prompt.value.trim() || (recap ? "Go on." : "");
	if (!question || whyNot(chat)) return;
	const earlier = chat.turns.filter((turn) => turn.answer).map((turn) => `Operator: ${turn.prompt}\nYou: ${turn.answer}`).join("\n\n");
	const words = recap ? `The earlier session was lost. Said so far:\n\n${earlier.slice(-RECAP)}\n\nNow: ${question}` : question;
	if (recap) chat.session = undefined;
	const body = { prompt: words, vm: chat.vm || undefined, session: chat.session };
	prompt.value = "";
	chat.failure = {};
	const turn = new Turn(newId(), question, JSON.stringify(body));
	turn.recap = recap;
	follow(chat, turn);
	$("transcript").scrollTo(0, chat.box.scrollHeight);
}

/** Asks for the rest of a turn that was cut off. */
export function askForRest() {
	const chat = chatOf();
	if (chat.cut && !chat.turn) follow(chat, chat.cut);
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
}

/** @param {Chat} chat  @param {Turn} turn  @param {any} event */
function take(chat, turn, event) {
	if (event.type === "ping" || event.n <= turn.n) return; // seen before the drop
	Object.assign(turn, { n: event.n, at: Date.now() });
	const follow = followEnd($("transcript"));
	if (event.type === "session") {
		chat.session = event.session;
		remind(chat);
	} else if (event.type === "error") failed(chat, turn, event);
	else if (event.type === "tool") say(chat, `Claude is working: running ${turn.tool(event)}`);
	else if (DRAWN.includes(event.type)) turn[/** @type {typeof DRAWN[number]} */ (event.type)](event);
	else if (event.type === "done") {
		turn.done = true;
		if (!event.ok && !turn.ending) turn.end("It ended without an answer.");
		if (event.ok) Object.assign(chat, { answered: true, failure: {} });
		say(chat, event.ok ? turn.answer || "Claude ended without an answer." : chat.failure.notice || "Stopped.");
	}
	follow();
}

/** @param {Chat} chat  @param {Turn} turn  @param {any} error */
function failed(chat, turn, { code, message, hint }) {
	if (code === "cancelled") return turn.end("Stopped. Commands inside the VM may still run.");
	if (code === "turn-unknown") return turn.end("Cut off: Breakglass no longer has this turn.");
	const down = /^claude-|^turn-timeout$|^chat-not-isolated$/.test(code);
	const words = message || troubleOf(code);
	const when = /until [\d:]+|exit \d+|signal \d+/.exec(words)?.[0];
	const what = down ? notAnswering(`${troubleOf(code)}${when ? ` (${when})` : ""}, ${minute(Date.now())}`) : sentence(words);
	const next = sentence(HINTS[code] ?? hint);
	const notice = [what, next, down && !/power/.test(hint) && CALM].filter(Boolean).join(" ");
	chat.failure = {
		notice, trouble: down ? code : "", since: down ? Date.now() : 0,
		lost: turn.recap || /^session-(lost|invalid|elsewhere)$/.test(code),
	};
	chat.answered &&= !down;
	turn.end(`No answer: ${words}`);
	if (turn.answer) return;
	if (chat === chatOf()) prompt.value ||= turn.prompt;
	else chat.draft ||= turn.prompt;
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

/** Why nothing can be sent now, or nothing. @param {Chat} chat */
function whyNot(chat) {
	if (!getState().unlocked) return "Enter the signing key first.";
	if (chat.turn) return "Claude is working.";
	return getState().health.answer?.chat === "off" ? `Chat is not set up here. ${CALM}` : "";
}

/** @param {string} why */
const notAnswering = (why) => `Claude is not answering: ${why}.`;

/** Draws the conversation about the shown VM. */
export function renderChat() {
	const chat = chatOf();
	if (chat !== shown) {
		if (shown) {
			shown.draft = prompt.value;
			prompt.value = chat.draft;
		} // else a person may have written before this was loaded
		$("transcript").replaceChildren(chat.box);
		shown = chat;
	}
	const why = whyNot(chat);
	const down = chatDown(getState()) && `${notAnswering(troubleOf(chatDown(getState())))} ${CALM}`;
	const { notice, lost } = chat.failure;
	setTexts({
		"chat-notice": notice || (chat.turn ? "" : why || down),
		"chat-word": chat.turn && chat.word.slice(0, 120),
		send: notice && !lost ? "Try again" : "Send",
	});
	$("send").ariaDisabled = String(Boolean(why));
	setShown({ "stop-turn": chat.turn, recap: lost && !chat.turn, "ask-rest": getState().unlocked && chat.cut });
}

