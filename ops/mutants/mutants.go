package main

// Mutant is one mistake that somebody could make.
type Mutant struct {
	Name     string
	File     string // from the root of the repository
	From, To string // what is there exactly once, and what the mistake makes of it
	Package  string
	Test     string // of the package, that catches it
}

// Mutants are the mistakes, by where they are made.
var Mutants = []Mutant{
	// Once and only once.
	{"the inbox is not asked", "pkg/flow/turn.go", "if c, ok := t.claims[key]; ok {", "if c, ok := t.claims[key]; ok && false {", "./pkg/flow", "TestTheSameMessageTwiceInABatchIsHandledOnce"},
	{"the inbox is not written", "pkg/flow/turn.go", "		t.claimed = append(t.claimed, store.Claim{Step: step, Message: m.ID, Saga: m.Saga, Digest: m.Digest})\n", "		t.claimed = append(t.claimed, store.Claim{Step: step, Message: t.newID(), Saga: m.Saga, Digest: m.Digest})\n", "./pkg/flow", "TestTheSameMessageTwiceInABatchIsHandledOnce"},
	{"the same message twice in one batch is handled twice", "pkg/flow/turn.go", "if done[key] {", "if done[key] && false {", "./pkg/flow", "TestARefusedCommandIsNotRememberedAndARepeatedOneIsAnsweredFromTheInbox"},
	{"the store does not notice who was first", "pkg/store/postgres.go", "written != sent {", "written > sent {", "./pkg/store", "TestADocumentIsWrittenOnlyOnTopOfWhatWasRead"},
	{"a conflict is not decided again", "pkg/flow/door.go", "case errors.Is(err, store.ErrConflict) && try < maxTries:", "case errors.Is(err, store.ErrConflict) && try < 0:", "./pkg/flow", "TestAnotherInstanceMayHaveHandledTheMessageBefore"},
	{"a message without a lasting commit counts as handled", "pkg/flow/door.go", "		case err == nil:\n			return\n", "		case err == nil || errors.Is(err, store.ErrUnavailable):\n			return\n", "./pkg/flow", "TestTheInboxTellsWhatBecameOfACommitOfUnknownOutcome"},
	{"an unknown outcome of a commit counts as success", "pkg/store/postgres.go", `return fmt.Errorf("%w: outcome of the commit unknown: %v", ErrUnavailable, err)`, "return nil", "./pkg/store", "TestACommitWhoseAnswerIsLostIsUnavailableAndFoundByItsClaim"},
	{"an Idempotency-Key is good for another body", "pkg/web/web.go", "if v.Duplicate && !bytes.Equal(v.First.Digest, m.Digest) {", "if v.Duplicate && !bytes.Equal(v.First.Digest, m.Digest) && false {", "./pkg/web", "TestAKeyThatComesBackWithAnotherBodyIsRefused"},

	// Undoing.
	{"an empty rollback leaves no barrier", "pkg/flow/turn.go", "	case b.now.State == \"\":\n		b.now.State = store.Suppressed\n", "	case b.now.State == \"\":\n", "./pkg/flow", "TestACompensationOfWhatNeverWasBarsIt"},
	{"a step runs though its saga was rolled back before", "pkg/flow/turn.go", "		if b.now.State == store.Suppressed {\n", "		if b.now.State == store.Suppressed && false {\n", "./pkg/flow", "TestOneFailureUndoesOneAndBarsTheOther"},
	{"two failures undo twice", "pkg/flow/turn.go", "b.now.State, b.now.UndoneBy = store.Undone, made[0].ID", "b.now.UndoneBy = made[0].ID", "./pkg/flow", "TestACompensationUndoesWhatStandsOnce"},
	{"a judge who wins does not bar the other", "pkg/flow/turn.go", "		if b.now.State == \"\" {\n			b.now.State = store.Suppressed\n", "		if b.now.State == \"\" {\n", "./pkg/flow", "TestAJudgeLetsOneOfTwoWin"},
	{"a copy of what was given up goes on", "pkg/flow/turn.go", "if b.now.State == store.GivenUp && !in.gaveUp {", "if b.now.State == store.GivenUp && !in.gaveUp && false {", "./pkg/flow", "TestACopyThatIsAnsweredBeforeAnotherGivesUpIsNotRecordedAfter"},
	{"a step gives up without voiding what it asked for", "pkg/flow/ask.go", "if s.void == nil {", "if s.void == nil || !s.spent(m) || s.spent(m) {", "./pkg/flow", "TestAStepIsGivenUpWhenItsBudgetIsSpent"},
	{"a step gives up without barring its copies first", "pkg/flow/ask.go", "if ours, err := d.bar(ctx, s, m); err != nil {", "if ours, err := true, error(nil); err != nil {", "./pkg/flow", "TestACopyThatGivesUpVoidsNothingThatIsRecorded"},
	{"what did not reach the outside counts as asked", "pkg/flow/ask.go", "|| errors.Is(err, ErrAway) {", "{", "./pkg/flow", "TestACallThatWasNeverMadeIsNotTheLastAttempt"},
	{"a refund is not of the amount that was recorded", "pay/pay.go", "OrderId: captured.OrderId, Amount: captured.Amount,", "OrderId: captured.OrderId,", "./pay", "TestAFailureOfALaterStepRefundsWhatTheLogSaysWasCaptured"},
	{"a deadline wishes to cancel what has ended", "order/order.go", "if o.Phase != Placed || o.CancelWished {", "if o.CancelWished {", "./order", "TestTheDeadlineComesTooLateOrSecond"},
	{"an order ends twice", "order/order.go", "	if o.Phase != Placed {\n", "	if o.Phase == Unknown {\n", "./order", "TestADeliveryAfterTheCancellationCompletesNothing"},

	// Stock and money.
	{"stock is reserved that is not there", "make/making.go", "if short, missing := k.Stock.short(need); missing {", "if short, missing := k.Stock.short(need); missing && short == \"\" {", "./make", "TestWhatIsNotThereFailsTheOrderAndIsSaidOnce"},
	{"cups are counted once per line", "make/making.go", "need[i.Name] += i.Amount * int64(line.Quantity)", "need[i.Name] += i.Amount", "./make", "TestTheIngredientsOfAllLinesAreReserved"},
	{"a price counts once per line", "order/order.go", "total.Amount += item.Price * int64(line.Quantity)", "total.Amount += item.Price", "./order", "TestAnOrderIsPlacedAtThePricesAndNamesOfTheMenu"},
	{"an older version replaces a newer copy", "pkg/flow/turn.go", "if v.copies && e.Version <= d.version {", "if v.copies && e.Version < 0 {", "./pkg/flow", "TestACopyIsOfTheNewestVersion"},

	// One bad message.
	{"a bad message spoils its batch", "pkg/flow/turn.go", "					again = true\n", "					again = false\n", "./pkg/flow", "TestABadMessageDoesNotTakeItsNeighboursDownAndLeavesNothing"},
	{"a timer is armed and disarmed in one commit", "pkg/flow/turn.go", "if t.split {", "if t.split && false {", "./pkg/flow", "TestATimerThatIsDisarmedAndArmedAgainIsArmed"},
	{"a timer that was disarmed goes off", "pkg/flow/turn.go", "Timers: t.timers, Disarmed: t.disarmed}", "Timers: t.timers}", "./pkg/flow", "TestATimerIsAMessageToOneself"},
	{"an event from somebody else's hand is believed", "pkg/flow/door.go", "case r.Source != e.Owner:", "case r.Source == \"nobody\":", "./pkg/flow", "TestPoisonIsRefusedWithTheReason"},
	{"events may go round for ever", "pkg/flow/door.go", "case r.Hops > event.MaxHops:", "case r.Hops > 1<<30:", "./pkg/flow", "TestPoisonIsRefusedWithTheReason"},
	{"hops are not counted", "pkg/event/event.go", "Hops: cause.Hops + 1", "Hops: cause.Hops", "./pkg/flow", "TestWhatIsCausedSaysByWhat"},
	{"a cause is lost", "pkg/event/event.go", "Causation: cause.ID", "Causation: cause.Causation", "./pkg/flow", "TestWhatIsCausedSaysByWhat"},
	{"what an old program wrote is not upcast", "pkg/contract/upcast.go", "for v := schema; v < e.Version; v++ {", "for v := schema + 1; v < e.Version; v++ {", "./pkg/contract", "TestWhatAnOldProducerWroteIsReadAsIfItWereNew"},
	{"what a newer program wrote is guessed at", "pkg/contract/upcast.go", "	case schema > e.Version:", "	case schema > e.Version && schema < 0:", "./pkg/contract", "TestABodyThatCannotBeBroughtUpToDateIsRefusedWithTheReason"},
	{"poison is tried again and again", "pkg/flow/intake.go", "case errors.Is(v.Err, ErrPoison) || len(steps) == 0", "case len(steps) == 0", "./pkg/flow", "TestTheFateOfAMessage"},
	{"a message is acked while the database is away", "pkg/flow/intake.go", "return Fate{Requeue: true}", "return Fate{Ack: true}", "./pkg/flow", "TestTheFateOfAMessage"},

	// Out.
	{"a row leaves the outbox before the broker has confirmed", "pkg/relay/relay.go", "	if err == nil {\n		r.confirmed", "	if err == nil || r.open >= 0 {\n		r.confirmed", "./pkg/relay", "TestWhatNobodyHearsStaysInTheOutbox"},
	{"nobody sweeps the outbox", "pkg/relay/relay.go", "left, err := r.outbox.Sweep(ctx, r.cfg.BatchMax, r.cfg.Lease)", "left, err := []event.Record(nil), error(nil)", "./pkg/relay", "TestTheStepsOfARelayCanBeTakenOneByOne"},
	{"two sweepers take the same", "pkg/store/postgres.go", "SET due_at = now() + $2::interval FROM due", "SET due_at = now() + $2::interval * 0 FROM due", "./pkg/store", "TestTwoSweepersNeverGetTheSameMessage"},
	{"a sweeper waits for another", "pkg/store/postgres.go", "LIMIT $1 FOR UPDATE SKIP LOCKED", "LIMIT $1 FOR UPDATE", "./pkg/store", "TestASweeperDoesNotWaitForAnother"},
	{"nobody asks whether there is a queue", "pkg/rabbit/publisher.go", "exchange, key, true, false, m)", "exchange, key, false, false, m)", "./pkg/rabbit", "TestWhatNobodyGetsIsNotPublished"},
	{"a nack counts as a confirm", "pkg/rabbit/publisher.go", "case !o.confirm.Acked():", "case !o.confirm.Acked() && o.id == \"\":", "./pkg/rabbit", "TestEveryMessageIsHeardOfOnceWhateverHappensToTheConnection"},
	{"what was returned counts as published", "pkg/rabbit/publisher.go", "case len(returns) > 0:", "case len(returns) > 0 && o.id == \"\":", "./pkg/rabbit", "TestWhatNobodyGetsIsNotPublished"},

	// In.
	{"a message is acked before its commit", "pkg/rabbit/consumer.go", "	m.Attempt = attempt\n", "	m.Attempt = attempt\n	give(verdict{delivery: d, message: m, fate: flow.Fate{Ack: true}})\n	give = func(verdict) {}\n", "./pkg/rabbit", "TestALateVerdictAcksNothingOfTheNextSession"},
	{"a retry forgets how often it was tried", "pkg/rabbit/consumer.go", "int64(v.message.Attempt + 1)", "int64(v.message.Attempt)", "./pkg/rabbit", "TestAMessageInTroubleWaitsAndComesBack"},
	{"a retry is acked though it could not be published", "pkg/rabbit/consumer.go", "back.fate, back.err = flow.Fate{Requeue: true}, fmt.Errorf", "_, back.err = flow.Fate{Requeue: true}, fmt.Errorf", "./pkg/rabbit", "TestAMessageThatCannotBeMovedIsNotLost"},
	{"what failed together comes back together", "pkg/rabbit/consumer.go", "case fate.RetryAfter > 0 && !v.held:", "case fate.RetryAfter > 0 && !v.held && v.moved:", "./pkg/rabbit", "TestWhatFailsTogetherDoesNotComeBackTogether"},
	{"what the broker wrote on a message is sent along", "pkg/rabbit/codec.go", "!strings.HasPrefix(k, \"x-\") && ", "", "./pkg/rabbit", "TestAMessageWhoseBudgetIsSpentIsSetAside"},
	{"a message is believed whoever published it", "pkg/rabbit/codec.go", "if d.Exchange != retry && d.UserId != d.AppId {", "if d.Exchange != retry && d.UserId != d.AppId && d.AppId == \"\" {", "./pkg/rabbit", "TestPoisonIsSetAsideAtOnceAndItsNeighboursAreHandled"},
	{"a dead letter may get lost on its way", "pkg/rabbit/topology.go", "\"x-dead-letter-strategy\": \"at-least-once\"", "\"x-dead-letter-strategy\": \"at-most-once\"", "./pkg/rabbit", "TestTheTopologyIsWhatWasMeasured"},
	{"a service may write what another owns", "pkg/rabbit/topology.go", "`\\.(events|retry)$`", "`\\.(events|retry)$|events`", "./pkg/rabbit", "TestEachUserMayDoToEachExchangeAndQueueWhatIsDeclared"},
}
