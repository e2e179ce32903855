// Draws all of the conversation except its turns: the notice, the composer, the list of earlier conversations.

import { $, make, setShown, setTexts } from "../base/dom.js";
import { sentence, troubleOf } from "../base/words.js";
import { LIMIT_USD } from "../state/conversation.js";
import { chatDown, isAway } from "../state/rules.js";
import { chatOf, dispatch, getState } from "../state/store.js";
import { drawingOf, whyNot } from "./drawings.js";
import { CALM, notAnswering } from "./errors.js";
import { listTalks, makeTalkRows } from "./list.js";
import { readChat } from "./replay.js";

/** @typedef {import("../state/conversation.js").Chat} Chat */
/** @typedef {import("../state/shape.js").State} State */

const prompt = /** @type {HTMLTextAreaElement} */ ($("prompt"));
const transcript = $("transcript");
/** The number of the conversation that is in the page. @type {number|undefined} */
let shown;
let listing = new AbortController();
/** @type {State["talks"]} */
let drawnTalks = null;
let wasAway = false;

/** Puts a question into the composer again. @param {string} words */
export function editPrompt(words) {
	prompt.value = words;
	prompt.focus();
	prompt.setSelectionRange(words.length, words.length);
}

/** Shows the list of earlier conversations in place of the conversation, or the conversation again. @param {boolean} [wanted] */
export async function showTalks(wanted = !getState().talks) {
	listing.abort();
	listing = new AbortController();
	const { signal } = listing;
	dispatch("talks-came", { talks: wanted ? { list: [], none: "Loading…" } : null });
	renderChat();
	if (!wanted) return;
	const { talks: list, trouble } = await listTalks(signal);
	const none = sentence(trouble ? `Your conversations could not be listed: ${trouble.message}` : "No conversations in the last 30 days");
	if (!signal.aborted && getState().talks) dispatch("talks-came", { talks: { list, none } });
}

/** @param {State["talks"]} talks  @param {Chat} chat */
function renderTalks(talks, { id }) {
	if (!talks || talks === drawnTalks) return;
	drawnTalks = talks;
	const { list, none } = talks;
	$("talks").replaceChildren(...list.length ? makeTalkRows(list, id) : [make("li", none)]);
}

/** @param {Chat} chat */
function costOf({ cost }) {
	if (!cost) return "";
	const words = `${cost.toFixed(2)} of ${LIMIT_USD.toFixed(2)} USD`;
	return cost < LIMIT_USD ? words : `${words}, so Claude checks only when asked`;
}

/** Draws the conversation about the shown VM. */
export function renderChat() {
	const chat = chatOf();
	if (chat.number !== shown) {
		transcript.replaceChildren(drawingOf(chat).box);
		shown = chat.number;
		noteEnd();
	}
	const state = getState();
	const focused = document.activeElement;
	const isFound = wasAway && !isAway(state);
	wasAway = isAway(state);
	if (mayRead(chat) && (chat.log === "unread" || (isFound && chat.log === "failed"))) readChat(state.vm);
	const why = whyNot(chat);
	const down = chatDown(state) && `${notAnswering(troubleOf(chatDown(state)))} ${CALM}`;
	const { notice, lost } = chat.failure;
	const { talks } = state;
	renderTalks(talks, chat);
	const isEmpty = chat.log === "read" && !chat.turns.length && !chat.turn && !chat.cut;
	setTexts({
		"chat-notice": notice || (chat.turn ? "" : why || down),
		"chat-word": chat.turn && chat.word.slice(0, 120),
		"chat-cost": costOf(chat),
		send: notice && !lost && prompt.value ? "Try again" : "Send",
	});
	$("send").ariaDisabled = String(Boolean(why));
	swap(chat.turn ? "send" : "stop-turn", chat.turn ? "stop-turn" : "send");
	setShown({
		recap: lost && !chat.turn,
		"ask-rest": state.unlocked && (chat.cut || chat.log === "failed"),
		"let-check": chat.check && !chat.turn && !why,
		starters: isEmpty && !why && !talks,
		"new-talk": !isEmpty || chat.session,
		talks,
		transcript: !talks,
	});
	$("earlier").ariaExpanded = String(Boolean(talks));
	if (document.activeElement !== focused && document.activeElement === $("headline")) focusNext();
}

/** Moves the focus to the conversation after the pressed button was hidden. */
function focusNext() {
	const places = [$("stop-turn"), $("starters").firstElementChild, transcript];
	const next = /** @type {HTMLElement|undefined} */ (places.find((each) => each?.getClientRects().length));
	next?.focus({ preventScroll: true });
}

/** Whether to read the earlier conversation now. It may be long, so the page reads it only when a person sees the chat. @param {Chat} chat */
const mayRead = ({ turn }) => !turn && getState().unlocked && getState().health.answer?.chat !== "none" && !wasAway && !document.hidden && transcript.getClientRects().length;

/** Hides one button and shows another in its place, which gets the focus. @param {string} gone  @param {string} come */
function swap(gone, come) {
	const hadFocus = document.activeElement === $(gone);
	$(come).hidden = false;
	if (hadFocus) $(come).focus({ preventScroll: true });
	setShown({ [gone]: false });
}

/** Shows whether there is more text below. */
function noteEnd() {
	const { scrollHeight, scrollTop, clientHeight } = transcript;
	const isAtEnd = scrollHeight - scrollTop - clientHeight < 40;
	if (isAtEnd && document.activeElement === $("to-end")) transcript.focus({ preventScroll: true });
	$("to-end").hidden = isAtEnd;
}

let size = "";
const sizeOf = () => `${transcript.clientWidth}x${transcript.clientHeight}`;
transcript.addEventListener("scroll", () => {
	if (size === sizeOf()) noteEnd(); // a keyboard opens in several steps, and with each new size the observer below decides
}, { passive: true });
new ResizeObserver(() => { // after a keyboard has opened, a view that was at its end scrolls to the end again
	size = sizeOf();
	if ($("to-end").hidden) transcript.scrollTo(0, transcript.scrollHeight);
	noteEnd();
}).observe(transcript);
if (!CSS.supports("field-sizing", "content")) { // other browsers let the composer grow by CSS alone
	prompt.addEventListener("input", () => { prompt.rows = Math.min(6, prompt.value.split("\n").length); });
}
