// Says so if the page can't begin: the browser is too old, or a file was lost on the way, which is asked for once more.
// This script is no module and has no new syntax: any browser runs it.

(function () {
	var RELOADED = "breakglass reloaded";

	/** @param {string} id  @param {string} words */
	function say(id, words) {
		var place = document.getElementById(id);
		if (place) place.textContent = words;
	}

	/** @param {string} headline  @param {string} second  @param {string} words */
	function sayTrouble(headline, second, words) {
		say("headline", headline);
		say("second", second);
		say("too-old", words);
		var byHand = document.getElementById("by-hand");
		if (byHand) byHand.setAttribute("open", "");
	}

	var isTooOld = false;
	function sayTooOld() {
		isTooOld = true;
		sayTrouble("Browser too old", "The page may not work",
			"This browser is too old for this page. It needs Chrome or Edge 110, Firefox 119, Safari 16 or later. " +
			"Use another browser, or the commands under By hand and in the runbook.");
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

	/** Loads the page once more; after a second failure, says so. */
	function loadAgain() {
		var again = false;
		try {
			var tried = sessionStorage.getItem(RELOADED);
			sessionStorage.setItem(RELOADED, "1");
			again = !tried;
		} catch (error) { /* no storage: it could not know that it has tried */ }
		if (again) location.reload();
		else sayTrouble("Not loaded", "A file did not arrive", "A part of this page was lost on the way. Reload the page, or use the " +
			"commands in the runbook.");
	}

	// Every file has come by now, or is lost: a module until the page is loaded again, a style until it is asked for again.
	addEventListener("load", function () {
		var style = document.querySelector("link[rel=stylesheet]");
		var hasStyle = getComputedStyle(document.documentElement).getPropertyValue("--touch"); // a lost one is an empty sheet
		if (style && !hasStyle) style.replaceWith(style.cloneNode());
		if (!document.body.hasAttribute("data-begun")) {
			if (!isTooOld) loadAgain();
			return;
		}
		try {
			sessionStorage.removeItem(RELOADED);
		} catch (error) { /* nothing is there */ }
	});
})();
