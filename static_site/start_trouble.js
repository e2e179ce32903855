// Says so if the browser is older than this page needs. This script is no module and has no new syntax: any browser runs it.

(function () {
	/** @param {string} id  @param {string} words */
	function say(id, words) {
		var place = document.getElementById(id);
		if (place) place.textContent = words;
	}

	function sayTooOld() {
		say("headline", "Browser too old");
		say("second", "The page may not work");
		say("too-old", "This browser is too old for this page. It needs Chrome or Edge 110, Firefox 119, Safari 16 or later. " +
			"Use another browser, or the commands under By hand and in the runbook.");
		var byHand = document.getElementById("by-hand");
		if (byHand) byHand.setAttribute("open", "");
	}

	// In the order of the versions in README.md: what each of them is the first to have.
	var hasAll = "noModule" in document.createElement("script") && "toSorted" in [] && "ariaDisabled" in Element.prototype &&
		"AbortSignal" in window && "timeout" in AbortSignal && "TextDecoderStream" in window && "HTMLDialogElement" in window &&
		CSS.supports("width: 1cqi");
	if (!hasAll) sayTooOld();
	// A module that it can't read ends so, before the page has begun.
	addEventListener("error", function (event) {
		if (event.error instanceof SyntaxError && document.body.getAttribute("data-scene") === "opening") sayTooOld();
	});
})();
