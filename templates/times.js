// Shows the times of the page in the zone and language of the browser.
const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
for (const time of document.querySelectorAll("time[data-absolute]")) {
  time.textContent = format.format(new Date(time.dateTime));
}
