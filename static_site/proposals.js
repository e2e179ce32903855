// What became of Claude's proposals: which may still be approved, and which verb's end Claude still has to be told of.

import { findJob } from "./history.js";
import { getState } from "./store.js";
import { noteProposal } from "./turn.js";
import { labelOf } from "./verbs.js";
import { clock } from "./words.js";

const DAY_MS = 86_400_000; // a host remembers an id for two days: an older one could act twice
const TOO_OLD = "Too old to approve. Ask Claude again.";

/** `at`: when its turn began, by this device's clock. `isOpen`: the host did not know its job. `talk`: its conversation.
 * @typedef {{vm: string, verb: string, at: number, isOpen: boolean, talk: object}} Proposal */

/** @type {Map<string, Proposal>} by the id of the job that an approval begins */
const known = new Map();

/** @param {string} job */
export const proposalOf = (job) => known.get(job);

export const forgetProposals = () => known.clear();

/** @param {string} job  @param {Proposal} proposal */
export function addProposal(job, proposal) {
	known.set(job, proposal);
}

/** Asks the host about a proposal that comes from a log. Returns whether its job has ended there. @param {string} job */
export async function checkProposal(job) {
	const proposal = known.get(job);
	if (!proposal) return false;
	if (isOld(proposal)) {
		noteProposal(job, TOO_OLD, true);
		return false;
	}
	noteProposal(job, "Checking whether it was used…");
	const found = await findJob(proposal.vm, job);
	if (known.get(job) !== proposal) return false;
	if (found === undefined) noteProposal(job, "Could not check whether it was used. Press the button to try again.", false);
	if (found === null) {
		proposal.isOpen = true;
		noteProposal(job, "", false);
	}
	if (!found) return false;
	const began = Date.parse(found.started) - getState().clockOff;
	const how = found.outcome ? `${found.outcome} at ${clock(began + 1e3 * (found.seconds ?? 0))}` : `under way since ${clock(began)}`;
	noteProposal(job, `${labelOf(found.verb)}: ${how}.`, true);
	return Boolean(found.outcome);
}

/** Why a proposal can't be approved now, or nothing. @param {string} job */
export function proposalObstacle(job) {
	const proposal = known.get(job);
	if (!proposal) return "";
	if (isOld(proposal)) {
		noteProposal(job, TOO_OLD, true);
		return TOO_OLD;
	}
	if (proposal.isOpen) return "";
	checkProposal(job);
	return "Checking whether this proposal was used. Try again in a moment.";
}

/** @param {Proposal} proposal */
const isOld = ({ at }) => Math.abs(Date.now() - at) >= DAY_MS;
