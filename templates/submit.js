// Submits the form of the page. Without scripts, the user presses its button.
document.querySelector("form[data-submit]").requestSubmit();
