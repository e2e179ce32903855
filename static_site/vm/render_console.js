// Draws the console as text if it has text, else as a picture, and draws the pictures of a rescue.

import { $, fillText, make, makePicture, setShown, setTexts } from "../base/dom.js";
import { clock, span } from "../base/words.js";
import { earlierShots } from "../state/rescue.js";

/** @typedef {import("../state/shape.js").Picture} Picture */
/** @typedef {import("../state/shape.js").View} View */

/** @type {Picture|null} */
let shown = null;

/** Returns the text of the console: the text in its picture, or the guest's last words if there is no newer picture.
 * @param {View} view  @returns {string[]|null} */
export const textOf = ({ picture, words }) => (picture?.rows.length ? picture.rows : picture?.live ? null : words?.lines ?? null);

/** @param {View} view  @param {number} now */
export function renderConsole(view, now) {
	const { picture, waiting, lookedAt, seen, watch, words, rescue } = view;
	const glass = /** @type {HTMLButtonElement} */ ($("glass"));
	if (picture !== shown) drawPicture(glass, picture);
	const text = textOf(view);
	const isWords = text !== null && text === words?.lines;
	const old = Boolean(picture && !picture.live && seen && picture.last !== seen.last);
	const figure = $("console");
	const isPicture = Boolean(picture && !text);
	figure.dataset.text = String(!isPicture); // without a text or a picture, the empty place for a text is shown
	figure.classList.toggle("old", old);
	setShown({ console: true, "console-text": !isPicture, "copy-console": text, glass: picture });
	drawText(text ?? []);
	const at = (isWords ? words.at : picture?.at) ?? 0;
	setTexts({
		"picture-at": isWords ? `Last words of the kernel, ${clock(at)}` : picture ? `Console ${clock(at)}` : waiting ? "Console: loading…" : lookedAt ? "No picture could be taken" : "No picture yet",
		"picture-age": !at ? "" : old ? "from before" : watch?.on ? "new every 3 s" : `${span(now - at)} ago`,
	});
	glass.disabled = !picture;
	const since = picture && rescue && picture.at >= rescue.began ? picture.at - rescue.began : null;
	glass.dataset.label = since === null ? "Picture" : `at ${span(since)}`;
	drawShots(earlierShots(rescue, picture), rescue?.began ?? 0, glass);
}

/** @param {Picture} picture */
const makePictureOf = ({ png, at }) => makePicture(png, clock(at));

/** @param {HTMLElement} glass  @param {Picture|null} picture */
function drawPicture(glass, picture) {
	shown = picture;
	if (!picture) return glass.replaceChildren();
	const image = makePictureOf(picture);
	image.addEventListener("load", () => picture === shown && glass.replaceChildren(image), { once: true }); // a picture of another VM may arrive late
}

let isBehind = false; // whether the end of the text was not scrolled into sight yet, as in a hidden tab, which scrolls nothing

/** Shows the newest line. @param {string[]} lines */
function drawText(lines) {
	const box = $("console-text");
	const words = lines.join("\n").replace(/\n{3,}/g, "\n\n").trim();
	if (box.dataset.words !== words) {
		box.dataset.words = words;
		fillText(box, words);
		isBehind = true;
	}
	if (!isBehind || !box.clientHeight) return;
	box.scrollTop = box.scrollHeight;
	isBehind = false;
}

/** @type {Picture[]} */
let drawn = [];

/** @param {Picture[]} shots  @param {number} began  @param {HTMLElement} glass */
function drawShots(shots, began, glass) {
	if (shots.length === drawn.length && shots.every((shot, n) => shot === drawn[n])) return;
	drawn = shots;
	for (const old of document.querySelectorAll(".shot")) old.remove();
	glass.before(...shots.map((shot) => makeShot(shot, began)));
}

/** @param {Picture} shot  @param {number} began */
function makeShot(shot, began) {
	const isBefore = shot.at < began;
	const since = span(shot.at - began);
	const image = makePictureOf(shot);
	image.alt = "";
	const button = make("button.shot", image, make("small", isBefore ? "before" : `at ${since}`)); // a longer label would be wider than its picture
	button.ariaLabel = `Console ${isBefore ? "before" : `${since} after`} the verb, enlarge`;
	button.addEventListener("click", () => enlarge(shot));
	return button;
}

/** Opens the picture that is shown. */
export const enlargePicture = () => shown && enlarge(shown);

/** Opens a picture as wide as the screen. A tap zooms in on the tapped place, and the next tap zooms out. @param {Picture} picture */
function enlarge(picture) {
	const button = make("button", makePictureOf(picture));
	button.id = "zoom";
	button.title = "Zoom";
	button.addEventListener("click", ({ clientX, clientY, detail }) => {
		const box = $("large-picture");
		const { left, top, width, height } = button.getBoundingClientRect();
		const [x, y] = detail ? [(clientX - left) / width, (clientY - top) / height] : [0, 1]; // a key has no place, so the picture zooms in on the newest line
		button.classList.toggle("near");
		box.scrollTo(x * box.scrollWidth - box.clientWidth / 2, y * box.scrollHeight - box.clientHeight / 2);
	});
	$("large-picture").replaceChildren(button);
	/** @type {HTMLDialogElement} */ ($("large")).showModal();
}
