/** The pepper of every test. */
export const TEST_PEPPER = 'test-pepper-test-pepper-test-pepper-0000'
