// The pictures of a rescue show the console before a verb that changes power, and while the VM comes up again. Pure.

/** @typedef {import("./shape.js").Picture} Picture */
/** The newest of `shots` may be the picture that is shown. @typedef {{began: number, shots: Picture[]}} Rescue */

const MOST_AFTER = 3;

/** Returns what a picture shows. Its text, if there is one, does not change when the cursor blinks. @param {Picture} picture */
const contentOf = ({ png, rows }) => rows.join("\n") || png;
/** @param {Picture} one  @param {Picture} other */
const looksAlike = (one, other) => contentOf(one) === contentOf(other);

/** Adds a picture if it differs from the picture before. Of the pictures since the verb, three stay: the first, the newest,
 * and the one that was taken nearest to the middle between these two.
 * @param {Rescue|null} rescue  @param {Picture} picture  @returns {Rescue|null} */
export function addShot(rescue, picture) {
	if (!rescue || picture.at < rescue.began) return rescue;
	const { began, shots } = rescue;
	const after = shots.filter(({ at }) => at >= began);
	const last = after.at(-1);
	if (last && looksAlike(last, picture)) return rescue;
	const all = [...shots, picture];
	if (after.length < MOST_AFTER) return { began, shots: all };
	const [first, one, other] = after;
	const middle = (first.at + picture.at) / 2;
	const farther = Math.abs(one.at - middle) >= Math.abs(other.at - middle) ? one : other;
	return { began, shots: all.filter((shot) => shot !== farther) };
}

/** Returns the pictures of the rescue besides the picture that is shown, oldest first. @param {Rescue|null} rescue  @param {Picture|null} shown  @returns {Picture[]} */
export const earlierShots = (rescue, shown) => (rescue && shown && shown.at >= rescue.began ? rescue.shots.filter((shot) => shot !== shown && !(shot === rescue.shots.at(-1) && looksAlike(shot, shown))) : []);
