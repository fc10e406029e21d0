package audit

// Refold is for the tests, which rebuild what they do not want to be found by.
var Refold = refold
