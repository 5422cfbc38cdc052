/**
 * Loaded into every part before its own code: ends the part when the launcher is gone. A launcher that was
 * killed cannot stop its parts, and a gateway left behind would keep the port from the next start.
 *
 * Nothing is handed over: the queue was the launcher's, and jobs under way go on at the next start.
 */
process.once('disconnect', () => process.exit(1))
// The wish to hear of the launcher's end must not keep a part alive that is done.
process.channel?.unref()
