package mfa

// StepUpID is stepUpID, for tests.
var StepUpID = stepUpID
